from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cmk.agent.files import StateFiles
from cmk.agent.node_layout import Impossible, NodeLayout, Outdated, Same, Wanted
from cmk.agent.observed import Observed
from cmk.host.procfs import Procfs
from cmk.legacy.takeover import OldPool, TakenOver, take_over
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.layout import SavedLayout
from cmk.model.reasons import Obstacle
from cmk.model.topology import Core, Topology
from tests.unit.agent.harness import options_in


def files_of(root: Path) -> StateFiles:
    return StateFiles(options_in(root), Procfs())


def node(root: Path, machine: Topology, name: str = "n") -> NodeLayout:
    return NodeLayout(name, files_of(root), machine)


def topology(cores: int) -> Topology:
    return Topology(tuple(Core(number, 0, frozenset({number})) for number in range(cores)))


def observed(exclusive: int, labels: dict[str, str] | None = None, reserved: str = "", hash_: str = "abc") -> Observed:
    pools = {"exclusive": PoolConfig(exclusive, exclusive=True), "shared": PoolConfig(1), "infra": PoolConfig("rest")}
    chosen = Chosen(Section(pools, hash=hash_, reserved=reserved), "default")
    return Observed(node={"metadata": {"labels": labels or {}}}, chosen=chosen)


def wanted(layout: NodeLayout, now: Observed) -> SavedLayout:
    """The layout that a configuration asks for."""
    answer = layout.wanted(now)
    assert isinstance(answer, Wanted)
    return answer.saved


def having(root: Path, cores: int, exclusive: int) -> NodeLayout:
    """A node of so many cores that has the pools of a configuration."""
    layout = node(root, topology(cores))
    layout.keep(wanted(layout, observed(exclusive)))
    return layout


def test_a_saved_layout_is_there_after_a_restart(tmp_path: Path) -> None:
    saved = having(tmp_path, 6, exclusive=2).saved
    later = node(tmp_path, topology(6))
    later.resume(files_of(tmp_path).read_layout(), in_use=False)
    assert saved is not None
    assert later.saved == saved
    assert (saved.section.hash, saved.scope) == ("abc", "default")


def test_asking_changes_nothing(tmp_path: Path) -> None:
    layout = having(tmp_path, 6, exclusive=2)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    before = layout.saved
    for now in (observed(1), observed(2, hash_="def"), observed(9), Observed(error="nonsense"), Observed()):
        layout.wanted(now)
    assert layout.saved == before
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files


def test_an_impossible_first_layout_comes_with_the_remedy(tmp_path: Path) -> None:
    answer = node(tmp_path, topology(4), "worker-1").wanted(observed(4))
    assert isinstance(answer, Impossible)
    assert answer.reason is Obstacle.LAYOUT_IMPOSSIBLE
    assert answer.text.endswith("; set hosts.worker-1.pools in the chart's values")


def test_an_impossible_layout_leaves_the_pools_as_they_were(tmp_path: Path) -> None:
    answer = having(tmp_path, 6, exclusive=2).wanted(observed(9, hash_="def"))
    assert isinstance(answer, Impossible)
    assert (answer.reason, answer.hash) == (Obstacle.LAYOUT_IMPOSSIBLE, "def")
    assert answer.text.endswith("; the pools stay as they were")


def test_a_warning_comes_with_the_layout(tmp_path: Path) -> None:
    saved = wanted(node(tmp_path, topology(6)), observed(2, reserved="7"))
    assert list(saved.layout.warnings) == ["reserved CPUs 7 are not online"]


def test_reserved_cpus_are_left_out(tmp_path: Path) -> None:
    saved = wanted(node(tmp_path, topology(6)), observed(2, reserved="0-1"))
    assert saved.layout.cpus_of("exclusive") == {2, 3}


def test_automatically_reserved_is_what_the_containers_cpuset_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmk.host.affinity.allowed", lambda cpus: cpus - {0, 5})
    saved = wanted(node(tmp_path, topology(6)), observed(2, reserved="auto"))
    assert (saved.layout.cpus_of("exclusive"), saved.layout.cpus_of("infra")) == ({1, 2}, {4})


BF, CP = "feature.node.kubernetes.io/cpu-power.sst_bf.enabled", "feature.node.kubernetes.io/cpu-power.sst_cp.enabled"


def test_a_node_labelled_for_sst_bf_prefers_it(tmp_path: Path) -> None:
    machine = Topology(tuple(Core(number, 0, frozenset({number}), base_frequency=1 + (number > 3)) for number in range(6)))
    assert wanted(node(tmp_path, machine), observed(2, {BF: "true"})).layout.cpus_of("exclusive") == {4, 5}


def test_a_node_labelled_for_both_is_refused(tmp_path: Path) -> None:
    answer = node(tmp_path, topology(6)).wanted(observed(2, {BF: "true", CP: "True"}))
    assert isinstance(answer, Impossible)
    assert answer.reason is Obstacle.CONFIG_INVALID
    assert "exclude each other" in answer.text


def test_a_configuration_that_cannot_be_read_makes_no_first_layout(tmp_path: Path) -> None:
    unreadable = Observed(error="config.json: nonsense")
    assert node(tmp_path, topology(4)).wanted(unreadable) == Impossible(Obstacle.CONFIG_INVALID, "config.json: nonsense")


@pytest.mark.parametrize("now", [Observed(), Observed(error="config.json: nonsense")])
def test_a_node_with_pools_keeps_them_without_a_configuration(tmp_path: Path, now: Observed) -> None:
    assert having(tmp_path, 6, exclusive=2).wanted(now) is None


def test_without_configuration_nothing_is_wanted(tmp_path: Path) -> None:
    assert node(tmp_path, topology(4)).wanted(Observed()) is None


def test_another_configuration_of_the_same_pools_is_their_source_from_now_on(tmp_path: Path) -> None:
    layout = having(tmp_path, 6, exclusive=2)
    answer = layout.wanted(observed(2, hash_="def"))
    assert isinstance(answer, Same)
    layout.keep(answer.saved)
    later = node(tmp_path, topology(6))
    later.resume(files_of(tmp_path).read_layout(), in_use=True)
    assert later.saved is not None
    assert later.saved.section.hash == "def"


def test_other_words_for_the_same_pools_are_the_same(tmp_path: Path) -> None:
    layout = having(tmp_path, 6, exclusive=2)
    pools = {"exclusive": PoolConfig(cpus="0-1", exclusive=True), "shared": PoolConfig(1), "infra": PoolConfig("rest")}
    now = msgspec.structs.replace(observed(2), chosen=Chosen(Section(pools, hash="def"), "default"))
    assert isinstance(layout.wanted(now), Same)


def test_what_is_kept_already_is_not_written(tmp_path: Path) -> None:
    layout = having(tmp_path, 6, exclusive=2)
    assert layout.saved is not None
    path = options_in(tmp_path).layout_file
    path.unlink()
    layout.keep(layout.saved)
    assert not path.exists()


def test_cpus_that_are_gone_void_the_layout_but_not_under_tasks(tmp_path: Path) -> None:
    having(tmp_path, 6, exclusive=2)
    smaller = node(tmp_path, topology(4))
    smaller.resume(files_of(tmp_path).read_layout(), in_use=True)
    assert smaller.saved is not None
    smaller.resume(files_of(tmp_path).read_layout(), in_use=False)
    assert smaller.saved is None


def test_a_node_that_leaves_has_no_layout(tmp_path: Path) -> None:
    layout = having(tmp_path, 6, exclusive=2)
    layout.forget()
    assert not options_in(tmp_path).layout_file.exists()


def old(exclusive: str) -> TakenOver:
    pools = {
        "exclusive": OldPool(True, {exclusive: ()}),
        "shared": OldPool(False, {"2": ()}),
        "infra": OldPool(False, {"0,3,4,5": ()}),
    }
    return take_over(pools, topology(6))


def test_an_old_layout_that_differs_is_a_configuration_of_its_own(tmp_path: Path) -> None:
    saved = node(tmp_path, topology(6)).adopted(old("1"), "the directory /etc/cmk", observed(1))
    assert saved is not None
    assert saved.layout.cpus_of("exclusive") == {1}
    assert (saved.scope, saved.section.hash) == ("adopted from the directory /etc/cmk", "adopted")
    chosen = observed(1).chosen
    assert chosen is not None
    assert not saved.section.same_pools(chosen.section)


def test_an_old_layout_that_is_what_was_asked_for_counts_as_applied(tmp_path: Path) -> None:
    pools = {"exclusive": OldPool(True, {"0": ()}), "shared": OldPool(False, {"1": ()}), "infra": OldPool(False, {"2,3,4,5": ()})}
    saved = node(tmp_path, topology(6)).adopted(take_over(pools, topology(6)), "x", observed(1))
    assert saved is not None
    assert (saved.scope, saved.section.hash) == ("default", "abc")


def test_an_old_layout_waits_for_the_configuration(tmp_path: Path) -> None:
    assert node(tmp_path, topology(6)).adopted(old("1"), "x", Observed()) is None


@pytest.mark.parametrize(
    ("cores", "exclusive", "lists"),
    [(8, -1, 6), (4, -1, 2), (6, -1, 4)],
)
def test_all_that_remain_are_more_on_a_machine_that_has_grown(tmp_path: Path, cores: int, exclusive: int, lists: int) -> None:
    having(tmp_path, 4, exclusive)
    later = node(tmp_path, topology(cores))
    later.resume(files_of(tmp_path).read_layout(), in_use=True)
    answer = later.wanted(observed(exclusive))
    assert isinstance(answer, Same if cores == 4 else Outdated)
    assert len(answer.saved.layout.pools["exclusive"].lists) == lists
    if isinstance(answer, Outdated):
        assert answer.text == f"{cores} CPUs, layout made for 4: CPUs 4-{cores - 1} are new"
        assert answer.kept == later.saved


def test_threads_that_appear_make_lists_whole_cores_again(tmp_path: Path) -> None:
    having(tmp_path, 4, exclusive=1)
    machine = Topology(tuple(Core(number, 0, frozenset({number, number + 4})) for number in range(4)))
    later = node(tmp_path, topology(4))
    later.resume(files_of(tmp_path).read_layout(), in_use=True)
    assert later.changed == ""
    later.topology = machine
    answer = later.wanted(observed(1))
    assert isinstance(answer, Outdated)
    assert answer.saved.layout.cpus_of("exclusive") == {0, 4}
    later.keep(answer.saved)
    assert (later.changed, later.wanted(observed(1))) == ("", Same(answer.saved))


def test_a_machine_that_has_shrunk_too_far_says_so(tmp_path: Path) -> None:
    having(tmp_path, 6, exclusive=4)
    later = node(tmp_path, topology(4))
    later.resume(files_of(tmp_path).read_layout(), in_use=True)
    answer = later.wanted(observed(4, hash_="def"))
    assert isinstance(answer, Outdated)
    assert (answer.saved, answer.kept.section.hash) == (None, "def")
    assert answer.text.startswith("4 CPUs, layout made for 6: CPUs 4-5 are gone or offline: needs 6 cores")
