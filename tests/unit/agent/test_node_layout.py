from __future__ import annotations

from pathlib import Path

import pytest

from cmk.agent.files import StateFiles
from cmk.agent.node_layout import NodeLayout
from cmk.agent.watches import Seen
from cmk.host.procfs import Procfs
from cmk.legacy.takeover import OldPool, TakenOver, take_over
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.reasons import Obstacle
from cmk.model.topology import Core, Topology
from tests.unit.agent.harness import options_in

TOLD: list[tuple[str, str]] = []


def node(root: Path, machine: Topology, name: str = "n") -> NodeLayout:
    TOLD.clear()
    return NodeLayout(
        name, StateFiles(options_in(root), Procfs()), machine, lambda reason, message: TOLD.append((reason, message))
    )


def topology(cores: int) -> Topology:
    return Topology(tuple(Core(number, 0, frozenset({number})) for number in range(cores)))


def seen(exclusive: int, labels: dict[str, str] | None = None, reserved: str = "") -> Seen:
    pools = {"exclusive": PoolConfig(exclusive, exclusive=True), "shared": PoolConfig(1), "infra": PoolConfig("rest")}
    return Seen(Chosen(Section(pools, hash="abc", reserved=reserved), "default"), labels=labels or {})


def test_what_was_made_is_found_again(tmp_path: Path) -> None:
    made = node(tmp_path, topology(6)).make(seen(2))
    later = node(tmp_path, topology(6))
    later.resume(in_use=False)
    assert made is not None
    assert later.saved == made
    assert (made.section.hash, made.scope) == ("abc", "default")


def test_what_cannot_be_is_refused_with_the_remedy(tmp_path: Path) -> None:
    layout = node(tmp_path, topology(4), "worker-1")
    assert layout.make(seen(4)) is None
    assert layout.reason == Obstacle.LAYOUT_IMPOSSIBLE
    assert "set hosts.worker-1.pools in the chart's values" in layout.problem
    assert not options_in(tmp_path).layout_file.exists()
    layout.make(seen(4))
    assert [(Obstacle.LAYOUT_IMPOSSIBLE, layout.problem)] == TOLD


def test_a_warning_is_told_once(tmp_path: Path) -> None:
    assert node(tmp_path, topology(6)).make(seen(2, reserved="7")) is not None
    assert TOLD == [("LayoutWarning", "reserved CPUs 7 are not online")]


def test_reserved_cpus_are_left_out(tmp_path: Path) -> None:
    made = node(tmp_path, topology(6)).make(seen(2, reserved="0-1"))
    assert made is not None
    assert made.layout.cpus_of("exclusive") == {2, 3}


def test_automatically_reserved_is_what_the_containers_cpuset_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.host.affinity.allowed", lambda cpus: cpus - {0, 5})
    made = node(tmp_path, topology(6)).make(seen(2, reserved="auto"))
    assert made is not None
    assert (made.layout.cpus_of("exclusive"), made.layout.cpus_of("infra")) == ({1, 2}, {4})


BF, CP = "feature.node.kubernetes.io/cpu-power.sst_bf.enabled", "feature.node.kubernetes.io/cpu-power.sst_cp.enabled"


def test_a_node_labelled_for_sst_bf_prefers_it(tmp_path: Path) -> None:
    machine = Topology(tuple(Core(number, 0, frozenset({number}), base_frequency=1 + (number > 3)) for number in range(6)))
    made = node(tmp_path, machine).make(seen(2, {BF: "true"}))
    assert made is not None
    assert made.layout.cpus_of("exclusive") == {4, 5}


def test_a_node_labelled_for_both_is_refused(tmp_path: Path) -> None:
    layout = node(tmp_path, topology(6))
    assert layout.make(seen(2, {BF: "true", CP: "True"})) is None
    assert layout.reason == Obstacle.CONFIG_INVALID
    assert "exclude each other" in layout.problem


def test_a_refusal_is_forgotten_when_it_works(tmp_path: Path) -> None:
    layout = node(tmp_path, topology(4))
    layout.make(seen(4))
    assert layout.make(seen(1)) is not None
    assert (layout.reason, layout.problem) == (None, "")


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    layout = node(tmp_path, topology(4))
    assert layout.make(Seen(error="config.json: nonsense")) is None
    assert (layout.reason, layout.problem) == (Obstacle.CONFIG_INVALID, "config.json: nonsense")


def test_without_configuration_nothing_is_made(tmp_path: Path) -> None:
    assert node(tmp_path, topology(4)).make(Seen()) is None


def test_cpus_that_are_gone_void_the_layout_but_not_under_tasks(tmp_path: Path) -> None:
    node(tmp_path, topology(6)).make(seen(2))
    smaller = node(tmp_path, topology(4))
    smaller.resume(in_use=True)
    assert smaller.saved is not None
    smaller.resume(in_use=False)
    assert smaller.saved is None


def test_a_node_that_leaves_keeps_no_layout(tmp_path: Path) -> None:
    layout = node(tmp_path, topology(6))
    layout.make(seen(2))
    layout.forget()
    layout.forget()
    assert not options_in(tmp_path).layout_file.exists()


def old(exclusive: str) -> TakenOver:
    pools = {
        "exclusive": OldPool(True, {exclusive: ()}),
        "shared": OldPool(False, {"2": ()}),
        "infra": OldPool(False, {"0,3,4,5": ()}),
    }
    return take_over(pools, topology(6))


def test_an_old_layout_is_kept_and_the_report_says_what_differs(tmp_path: Path) -> None:
    layout = node(tmp_path, topology(6))
    made = layout.take_over(old("1"), "the directory /etc/cmk", seen(1))
    assert made is not None
    assert made.layout.cpus_of("exclusive") == {1}
    assert (made.scope, made.section.hash) == ("adopted from the directory /etc/cmk", "adopted")
    chosen = seen(1).chosen
    assert chosen is not None
    assert not made.section.same_pools(chosen.section)
    later = node(tmp_path, topology(6))
    later.resume(in_use=False)
    assert later.saved == made


def test_an_old_layout_that_is_what_was_asked_for_counts_as_applied(tmp_path: Path) -> None:
    pools = {"exclusive": OldPool(True, {"0": ()}), "shared": OldPool(False, {"1": ()}), "infra": OldPool(False, {"2,3,4,5": ()})}
    made = node(tmp_path, topology(6)).take_over(take_over(pools, topology(6)), "x", seen(1))
    assert made is not None
    assert (made.scope, made.section.hash) == ("default", "abc")


def test_an_old_layout_waits_for_the_configuration(tmp_path: Path) -> None:
    assert node(tmp_path, topology(6)).take_over(old("1"), "x", Seen()) is None
