"""Isolated partitions on fabricated trees: which containers become one, which do not and why, and that each ends without a trace."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cmk.isolation.layers import Layers
from cmk.isolation.partitions import EXCLUSIVE, ISOLATED, MEMBER, PARTITION
from cmk.model import cpuset
from cmk.model.isolation_config import Isolation
from tests.unit.isolation.cgrouptree import set_text, snapshot
from tests.unit.isolation.hosts import (
    AT_BEFORE,
    AT_LAST,
    BEFORE,
    CORE,
    FOUR,
    GROUPS,
    LAST,
    OWNER,
    OWNER_POD,
    TASK,
    Host,
    four,
    in_loop,
    killed_at_each_write,
    undo_killed_at_each_write,
)

ASKED = Isolation(partition="auto")
EXCLUSIVE_TO = dict.fromkeys(("", "besteffort", OWNER_POD, OWNER), CORE.cpus)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path, strict=False)
    assert host.ledger.restore(TASK)
    return host


def exclusive(host: Host) -> dict[str, frozenset[int]]:
    cpus = {path: cpuset.parse(host.kernel.read_file(path, EXCLUSIVE)) for path in GROUPS}
    return {path: cpus[path] for path in GROUPS if cpus[path]}


def partitions(host: Host) -> set[str]:
    return {path for path in GROUPS if host.kernel.read_file(path, PARTITION) != MEMBER}


def test_a_container_that_is_on_its_core_alone_becomes_one_and_ends_with_its_task(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(ASKED, "")
        assert layers.states()["partition"].state == "on"
        assert (partitions(host), exclusive(host)) == ({OWNER}, EXCLUSIVE_TO)
        assert host.kernel.read(OWNER) == CORE.cpus
        host.ledger.release(TASK.process)
        layers.enforce()
        assert (partitions(host), exclusive(host)) == (set(), {})
        assert not CORE.cpus & host.kernel.effective(OWNER)
        layers.stop()

    in_loop(scenario)


def test_the_next_agent_has_nothing_to_do(host: Host) -> None:
    def scenario() -> None:
        first = host.layers()
        first.apply(ASKED, "")
        first.stop()
        before = snapshot(host.cgroups)
        second = host.layers()
        second.resume()
        second.apply(ASKED, "")
        assert host.kernel.writes == []
        assert snapshot(host.cgroups) == before
        second.stop()

    in_loop(scenario)


def test_the_container_of_a_later_task_becomes_one_after_the_task_was_pinned(host: Host) -> None:
    async def run() -> None:
        host.ledger.release(TASK.process)
        layers = host.layers()
        layers.apply(ASKED, "")
        assert host.ledger.restore(TASK)
        layers.enforce()
        assert partitions(host) == set()
        await asyncio.sleep(0)
        assert partitions(host) == {OWNER}
        layers.stop()

    asyncio.run(run())


def test_a_container_with_a_process_that_runs_elsewhere_is_none_and_reported(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario() -> None:
        monkeypatch.setattr(host.procfs, "threads", lambda pid: [2**22 + 1, pid])  # the first one has ended since
        set_text(host.cgroups / "kubepods" / OWNER, "cgroup.procs", str(os.getpid()))
        agent = host.layers()
        agent.apply(ASKED, "")
        (left,) = agent.states()["partition"].left
        assert f"process {os.getpid()}" in left
        assert left.endswith("may run on other CPUs too")
        assert (partitions(host), exclusive(host)) == (set(), {})
        agent.stop()

    in_loop(scenario)


def test_a_partition_that_the_kernel_refuses_is_undone_and_reported(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        monkeypatch.setattr(type(host.kernel), "_partition", lambda *_: f"{ISOLATED} invalid (no privilege)")
        layers.apply(ASKED, "")
        (left,) = layers.states()["partition"].left
        assert left.endswith(f"{ISOLATED} invalid (no privilege)")
        assert (partitions(host), exclusive(host)) == (set(), {})
        assert host.kernel.effective(OWNER) > CORE.cpus
        layers.stop()

    in_loop(scenario)


def test_a_partition_that_the_kernel_refused_is_not_tried_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        kernel = host.kernel
        monkeypatch.setattr(type(kernel), "_partition", lambda *_: f"{ISOLATED} invalid")
        layers.apply(ASKED, "")
        state, count = layers.states()["partition"], len(kernel.writes)
        layers.enforce()
        await asyncio.sleep(0)
        assert layers.states()["partition"] == state
        assert len(kernel.writes) == count
        layers.stop()

    asyncio.run(run())


def test_exclusive_cpus_that_another_program_gave_are_left_alone(host: Host) -> None:
    set_text(host.cgroups / "kubepods/burstable", EXCLUSIVE, "0")

    def scenario() -> None:
        layers = host.layers()
        layers.apply(ASKED, "")
        state = layers.states()["partition"]
        assert (state.state, state.reason.split()[0]) == ("conflict", "burstable")
        layers.undo()
        assert exclusive(host) == {"burstable": frozenset({0})}

    in_loop(scenario)


@pytest.mark.parametrize("how", ["partition off", "pods off", "conflict", "undo"])
def test_it_ends_with_the_layer_that_it_needs(host: Host, how: str) -> None:
    may_use = {}

    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        may_use.update({path: host.may_use(path) for path in GROUPS})
        layers.apply(ASKED, "")
        assert partitions(host) == {OWNER}
        off(layers, how)
        assert (partitions(host), exclusive(host)) == (set(), {})
        if how == "partition off":
            assert {path: host.may_use(path) for path in GROUPS} == may_use
        layers.stop()

    in_loop(scenario)


def off(layers: Layers, how: str) -> None:
    match how:
        case "partition off":
            layers.apply(Isolation(), "")
        case "pods off":
            layers.apply(Isolation(pods=False, partition="auto"), "")
            assert layers.states()["partition"].reason.startswith("needs isolation.pods")
        case "conflict":
            layers.apply(ASKED, "balloons")
        case _:
            layers.undo()


def test_killed_at_any_write_the_next_agent_completes_and_undoes(tmp_path: Path) -> None:
    def scenario() -> None:
        for host in killed_at_each_write(tmp_path, ASKED, strict=False):
            layers = host.layers()
            layers.resume()
            layers.apply(ASKED, "")
            assert (partitions(host), exclusive(host)) == ({OWNER}, EXCLUSIVE_TO)
            layers.stop()
            undo_killed_at_each_write(host)
            assert (partitions(host), exclusive(host)) == (set(), {})

    in_loop(scenario)


@pytest.mark.parametrize(("strict", "word"), [(True, "cgroup v1"), (False, "6.7")])
def test_a_host_that_can_have_none_reports_why(tmp_path: Path, strict: bool, word: str) -> None:
    host = Host(tmp_path, strict=strict)
    for file in host.cgroups.rglob(EXCLUSIVE):
        file.unlink()
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layers = host.layers()
        layers.apply(ASKED, "")
        state = layers.states()["partition"]
        assert (state.state, word in state.reason) == ("impossible", True)
        layers.undo()

    in_loop(scenario)
    if strict:
        assert snapshot(host.cgroups) == before


def test_it_ends_before_its_task_moves_and_is_made_anew_afterwards(tmp_path: Path) -> None:
    host = Host(tmp_path, strict=False, topology=FOUR, layout=four(LAST))
    assert host.ledger.restore(AT_LAST)

    async def run() -> None:
        layers = host.layers()
        layers.apply(ASKED, "")
        assert partitions(host) == {OWNER}
        host.ledger.announce(four(BEFORE), {TASK.process: BEFORE.cpus})
        host.ledger.begin()
        layers.refit()
        assert (partitions(host), exclusive(host)) == (set(), {}), "it is no partition while it has both"
        assert host.kernel.effective(OWNER) >= {2, 3}
        host.ledger.end(four(BEFORE), [AT_BEFORE])
        layers.refit()
        await asyncio.sleep(0)
        assert partitions(host) == {OWNER}
        assert (host.kernel.read(OWNER), exclusive(host)[OWNER]) == ({2}, {2})
        layers.stop()

    asyncio.run(run())
