from __future__ import annotations

from cmk.model.isolation_config import Isolation
from tests.unit.isolation.cgrouptree import snapshot
from tests.unit.isolation.hosts import ALL, CORE, Host, in_loop

SLICE = "../system.slice"
ASKED = Isolation(pods=False, host="slices")


def test_slices_beside_kubepods_are_narrowed_and_restored(host: Host) -> None:
    host.add(SLICE)
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layers = host.layers()
        layers.apply(ASKED, "")
        state = layers.states()["host"]
        if host.strict:
            assert (state.state, "cgroup v1" in state.reason) == ("impossible", True)
        else:
            assert state.state == "on"
            assert not CORE.cpus & host.kernel.effective(SLICE)
        layers.undo()

    in_loop(scenario)
    if host.strict:
        assert snapshot(host.cgroups) == before
    else:
        assert host.may_use(SLICE) == ALL


def test_without_slices_the_layer_names_the_other_way(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(ASKED, "")
        state = layers.states()["host"]
        assert (state.state, "isolation.host=affinity" in state.reason) == ("impossible", True)
        layers.stop()

    in_loop(scenario)
