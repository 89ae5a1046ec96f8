"""Isolation layers on fabricated hosts: what is refused, what survives a kill at any write, and that everything goes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cmk.host.procfs import Procfs
from cmk.isolation.cgroups import FILE
from cmk.isolation.layers import HostPaths, Layers
from cmk.model import cpuset
from cmk.model.isolation_config import Isolation
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology
from tests.unit.agent.harness import LAYOUT, TOPOLOGY
from tests.unit.isolation.cgrouptree import UID, Kernel, Killed, add, container, make, pod_directory, snapshot

ALL = f"0-{max(TOPOLOGY.cpus)}"
OWNER, OTHER = pod_directory(1, "besteffort"), pod_directory(2, "burstable")
GROUPS = [
    "",
    "besteffort",
    "burstable",
    OWNER,
    f"{OWNER}/{container('a')}",
    f"{OWNER}/{container('b')}",
    OTHER,
    f"{OTHER}/{container('a')}",
]
FIRST = LAYOUT.pools["exclusive"].lists[0]
# What it takes to close the tree above, by cgroup version: strict or not.
WRITES = {True: 4, False: 6}
TASK = Task(Process(1, 1), "exclusive", (FIRST.name,), UID.format(1), "a" * 64)


class Host:
    """A host's cgroups and state directory; ``layers`` makes an agent on them, ``kernel`` is the last agent's."""

    def __init__(self, root: Path, *, strict: bool = True, topology: Topology = TOPOLOGY, layout: Layout = LAYOUT) -> None:
        self.root = root
        self.cgroups = root / "cgroup"
        (root / "state").mkdir()
        # Nobody but this very process, so that no test looks at others, or moves them.
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / "proc/sys/kernel/random/boot_id").write_text("this boot\n")
        (root / f"proc/{os.getpid()}").symlink_to(f"/proc/{os.getpid()}")
        self.procfs = Procfs(root / "proc")
        everything = cpuset.kernel_list(topology.cpus)
        make(self.cgroups, dict.fromkeys(GROUPS, everything if strict else ""), strict=strict, cpus=everything)
        self.topology = topology
        self.strict = strict
        self.kernel: Kernel
        self.ledger = Ledger(layout)

    def layers(self, *, die_at: int = -1, cgroups: bool = True) -> Layers:
        def open_tree(path: Path) -> Kernel:
            self.kernel = Kernel(path)
            self.kernel.die_at = die_at
            return self.kernel

        paths = HostPaths(self.root / "state/isolation.json", self.cgroups if cgroups else None)
        return Layers(paths, self.procfs, self.ledger, self.topology, lambda: None, open_tree)

    def may_use(self, path: str) -> str:
        return self.kernel.read_file(path, "cpuset.effective_cpus" if self.strict else "cpuset.cpus.effective")


def undo_killed_at_each_write(host: Host) -> None:
    """Agent after agent undoes what it finds; each gets one write further."""
    for die_at in range(20):
        try:
            last = host.layers(die_at=die_at)
            last.resume()
            last.undo()
            return
        except Killed:
            continue
    pytest.fail("never undone")


def in_loop(scenario: Callable[[], None]) -> None:
    async def run() -> None:
        scenario()

    asyncio.run(run())


@pytest.fixture(params=[True, False], ids=["v1", "v2"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, strict=request.param)


def test_an_owner_has_its_core_alone_in_its_own_container_alone(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        assert not FIRST.cpus & host.kernel.effective(GROUPS[4])
        assert host.ledger.restore(TASK)
        layers.enforce()
        assert host.kernel.effective(GROUPS[4]) >= FIRST.cpus
        assert not FIRST.cpus & host.kernel.effective(GROUPS[5])
        assert not FIRST.cpus & host.kernel.effective(GROUPS[7])
        host.ledger.release(TASK.process)
        layers.enforce()
        assert not FIRST.cpus & host.kernel.effective(GROUPS[4])
        layers.stop()

    in_loop(scenario)


@pytest.mark.parametrize("die_at", range(9))
def test_killed_at_any_write_the_next_agent_completes_and_undoes(host: Host, die_at: int) -> None:
    before = snapshot(host.cgroups)

    def scenario() -> None:
        assert host.ledger.restore(TASK)
        first = host.layers(die_at=die_at)
        if die_at < WRITES[host.strict]:
            with pytest.raises(Killed):
                first.apply(Isolation(), "")
        else:
            first.apply(Isolation(), "")
            first.stop()
            assert len(host.kernel.writes) == WRITES[host.strict], "every write has been the last once"
        layers = host.layers()
        layers.resume()
        assert layers.states()["pods"].state == "on"
        layers.apply(Isolation(), "")
        assert host.kernel.effective(GROUPS[4]) >= FIRST.cpus
        assert not any(FIRST.cpus & host.kernel.effective(path) for path in (GROUPS[5], GROUPS[6], GROUPS[7]))
        layers.stop()
        undo_killed_at_each_write(host)
        if host.strict:
            assert snapshot(host.cgroups) == before
        assert {host.may_use(path) for path in GROUPS} == {ALL}
        assert not (host.root / "state/isolation.json").exists()

    in_loop(scenario)


def test_a_group_that_comes_later_is_closed_at_once(host: Host) -> None:
    async def run() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        late = pod_directory(3)
        add(host.kernel.directory(late), ALL if host.strict else "", strict=host.strict)
        host.kernel.refresh()
        async with asyncio.timeout(20):
            while host.kernel.read_file(late, FILE) in ("", ALL):
                await asyncio.sleep(0)
        assert not FIRST.cpus & host.kernel.effective(late)
        host.kernel.directory(late).joinpath("cpuset.cpus").write_text(f"{ALL}\n")
        host.kernel.refresh()
        async with asyncio.timeout(20):
            while host.kernel.read_file(late, FILE) == ALL:
                await asyncio.sleep(0)
        assert layers.drift == 1
        layers.stop()

    asyncio.run(run())


def test_somebody_elses_cpusets_are_a_conflict_and_left_alone(host: Host) -> None:
    (host.cgroups / ("cpuset" if host.strict else ".") / "kubepods" / GROUPS[7] / "cpuset.cpus").write_text("1\n")
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        state = layers.states()["pods"]
        assert (state.state, GROUPS[7] in state.reason) == ("conflict", True)
        layers.stop()

    in_loop(scenario)
    assert snapshot(host.cgroups) == before


def test_a_budget_for_realtime_is_a_conflict(host: Host) -> None:
    budget = host.cgroups / "cpu/kubepods" / GROUPS[7]
    budget.mkdir(parents=True)
    (budget / "cpu.rt_runtime_us").write_text("1000\n")
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        state = layers.states()["pods"]
        if host.strict:
            assert (state.state, str(budget) in state.reason) == ("conflict", True)
            assert snapshot(host.cgroups) == before
        else:  # cgroup v2 has no such budgets
            assert state.state == "on"
        layers.stop()

    in_loop(scenario)


def test_another_manager_is_a_conflict_and_undoes_what_we_did(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        layers.apply(Isolation(), "balloons")
        assert layers.states()["pods"].reason == "balloons"
        assert {host.may_use(path) for path in GROUPS} == {ALL}
        layers.apply(Isolation(), "")
        assert layers.states()["pods"].state == "on"
        layers.stop()

    in_loop(scenario)


def test_without_access_nothing_is_claimed(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers(cgroups=False)
        layers.apply(Isolation(host="slices", irqs="on"), "")
        states = {name: layer.state for name, layer in layers.states().items()}
        impossible = dict.fromkeys(("pods", "host", "irqs"), "impossible")
        assert states == impossible | dict.fromkeys(("ownPod", "idle", "partition"), "off")
        layers.stop()

    in_loop(scenario)


def test_sets_that_cannot_be_given_back_any_more_are_told(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        layers.stop()
        layers = host.layers(cgroups=False)
        layers.resume()
        layers.apply(Isolation(pods=False), "")
        assert "still narrowed" in layers.states()["pods"].reason
        layers.stop()

    in_loop(scenario)


def test_what_another_boot_left_is_void(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        layers.stop()
        file = host.root / "state/isolation.json"
        file.write_text(file.read_text().replace(host.procfs.boot_id(), "another"))
        layers = host.layers()
        layers.resume()
        assert layers.states()["pods"].state == "off"
        layers.stop()

    in_loop(scenario)


def test_slices_beside_kubepods_are_narrowed_and_given_back(host: Host) -> None:
    base = host.cgroups / ("cpuset" if host.strict else ".")
    add(base / "system.slice", ALL if host.strict else "", strict=host.strict)
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(pods=False, host="slices"), "")
        state = layers.states()["host"]
        if host.strict:
            assert (state.state, "cgroup v1" in state.reason) == ("impossible", True)
        else:
            assert state.state == "on"
            assert not FIRST.cpus & host.kernel.effective("../system.slice")
        layers.undo()

    in_loop(scenario)
    if host.strict:
        assert snapshot(host.cgroups) == before
    else:
        assert host.may_use("../system.slice") == ALL


# Four CPUs: an exclusive core moves from the last to the one before.
FOUR = Topology(tuple(Core(cpu, 0, frozenset({cpu})) for cpu in range(4)))
LAST, BEFORE = (CpuList(frozenset({cpu}), 0) for cpu in (3, 2))


def four(exclusive: CpuList) -> Layout:
    infra = CpuList(FOUR.cpus - exclusive.cpus, 0)
    return Layout({"exclusive": Pool("exclusive", True, (exclusive,)), "infra": Pool("infra", False, (infra,))})


AT_LAST, AT_BEFORE = (msgspec.structs.replace(TASK, lists=(item.name,)) for item in (LAST, BEFORE))


@pytest.mark.parametrize("strict", [True, False], ids=["v1", "v2"])
def test_others_have_left_a_core_before_its_new_owner_comes_and_get_the_old_one_when_he_has_gone(
    tmp_path: Path, strict: bool
) -> None:
    host = Host(tmp_path, strict=strict, topology=FOUR, layout=four(LAST))
    base = host.cgroups / ("cpuset" if host.strict else ".")
    add(base / "system.slice", "0-3" if host.strict else "", strict=host.strict)

    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(host="slices"), "")
        assert host.ledger.restore(AT_LAST)
        layers.enforce()
        assert host.kernel.effective(GROUPS[7]) == {0, 1, 2}
        host.ledger.begin(four(BEFORE), {TASK.process: BEFORE.cpus})
        layers.refit()
        assert host.kernel.effective(GROUPS[4]) >= {2, 3}, "the owner may go there"
        assert host.kernel.effective(GROUPS[7]) == {0, 1}, "nobody else may"
        assert strict or host.kernel.effective("../system.slice") == {0, 1}
        host.ledger.end(four(BEFORE), [AT_BEFORE])
        layers.refit()
        assert host.kernel.effective(GROUPS[4]) >= BEFORE.cpus
        assert host.kernel.effective(GROUPS[7]) == {0, 1, 3}, "what was exclusive is anybody's"
        assert strict or host.kernel.effective("../system.slice") == {0, 1, 3}
        layers.undo()

    in_loop(scenario)
    if not strict:
        assert host.may_use("../system.slice") == "0-3"


def test_where_there_is_nothing_else_others_leave_where_the_owner_goes() -> None:
    two = [
        Layout(
            {
                "exclusive": Pool("exclusive", True, (CpuList(frozenset({own}), 0),)),
                "infra": Pool("infra", False, (CpuList(frozenset({other}), 0),)),
            }
        )
        for own, other in ((0, 1), (1, 0))
    ]
    ledger = Ledger(two[0])
    ledger.begin(two[1], {})
    assert ledger.exclusive == {1}
