"""Real processes and real affinities; it takes a machine with two CPUs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from cmk.host import mover
from cmk.host.affinity import AffinityError
from cmk.host.mover import MovedThread, Pids, undo
from cmk.host.passes import LEAST
from cmk.host.pauses import Pausing, without_pause
from cmk.host.procfs import Procfs
from cmk.model.cpuset import CpuSet
from cmk.model.remap import CpuMap

CPUS = sorted(os.sched_getaffinity(0))
ONE, OTHER = frozenset(CPUS[:1]), frozenset(CPUS[1:2])
PROCFS = Procfs()


def move(
    procfs: Procfs,
    known: mover.Threads,
    pids: Callable[[], Pids],
    target: mover.Target,
    *,
    keep: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> list[MovedThread]:
    """Move without a pause processes that are listed without one."""

    def listing() -> Pausing[Pids]:
        return pids()
        yield

    return without_pause(mover.move(procfs, known, listing, target, keep=keep, clock=clock))


# So many threads, each of which ends and is replaced by one that it makes itself, until its input ends. Ready when that has begun.
SPAWNER = """
import os, sys, threading, time
os.sched_setaffinity(0, {int(sys.argv[2])})
replaced = threading.Semaphore(0)
def live():
    time.sleep(0.2)
    threading.Thread(target=live).start()
    replaced.release()
for _ in range(int(sys.argv[1])):
    threading.Thread(target=live).start()
if sys.argv[1] != "0":
    replaced.acquire()
print("ready", flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.fixture
def spawner() -> Iterator[Callable[[int], int]]:
    running: list[subprocess.Popen[str]] = []

    def start(count: int) -> int:
        process = subprocess.Popen(
            [sys.executable, "-c", SPAWNER, str(count), str(min(ONE))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    yield start
    for process in running:
        process.kill()
        process.communicate()


def through(cpu_map: CpuMap) -> Callable[[int, CpuSet], CpuSet]:
    return lambda tid, mask: cpu_map.new_mask(mask)


def listed(*pids: int) -> Pids:
    return Pids(list(pids), is_complete=True)


def masks(pid: int) -> set[CpuSet]:
    seen = set()
    for tid in PROCFS.threads(pid):
        try:
            seen.add(frozenset(os.sched_getaffinity(tid)))
        except ProcessLookupError:
            continue
    return seen


def test_no_thread_is_left_behind_by_a_process_that_makes_new_ones_all_the_time(spawner: Callable[[int], int]) -> None:
    pid = spawner(300)
    assert masks(pid) == {ONE}
    moved = move(PROCFS, {pid: [pid]}, lambda: listed(pid), through(CpuMap([ONE], [OTHER])))
    assert len(moved) >= 300
    for _ in range(20):
        assert masks(pid) == {OTHER}
        time.sleep(0.01)


def test_a_thread_on_other_cpus_is_left_alone(spawner: Callable[[int], int]) -> None:
    pid = spawner(0)
    os.sched_setaffinity(pid, ONE | OTHER)
    assert move(PROCFS, {}, lambda: listed(pid), through(CpuMap([ONE], [frozenset({4000})]))) == []
    assert masks(pid) == {ONE | OTHER}


def test_a_refused_mask_is_an_error_and_undone(spawner: Callable[[int], int]) -> None:
    first, second = spawner(0), spawner(0)
    targets = {first: OTHER, second: frozenset({4000})}
    asked = iter([OTHER, frozenset({4000})])
    with pytest.raises(AffinityError, match=f"process {second}, thread {second}: CPUs 4000 refused by the kernel"):
        move(PROCFS, {}, lambda: listed(*targets), lambda tid, mask: next(asked))
    assert (masks(first), masks(second)) == ({ONE}, {ONE})


def test_undo_restores_the_masks(spawner: Callable[[int], int]) -> None:
    pid = spawner(0)
    moved = move(PROCFS, {}, lambda: listed(pid), through(CpuMap([ONE], [OTHER])))
    assert masks(pid) == {OTHER}
    assert undo(PROCFS, moved) == []
    assert masks(pid) == {ONE}


def test_processes_that_have_ended_are_skipped(spawner: Callable[[int], int]) -> None:
    pid = spawner(0)
    assert [thread.tid for thread in move(PROCFS, {}, lambda: listed(2**22 + 1, pid), through(CpuMap([ONE], [OTHER])))] == [pid]


@pytest.mark.parametrize("keep", [False, True])
def test_a_move_is_given_up_when_its_time_is_over(spawner: Callable[[int], int], keep: bool) -> None:
    clock, pids = itertools.count(step=10), []

    def one_more() -> Pids:
        pids.append(spawner(0))
        return listed(*pids)

    with pytest.raises(AffinityError, match=r"process \d+, or one that it belongs with, keeps starting"):
        move(PROCFS, {}, one_more, through(CpuMap([ONE], [OTHER])), keep=keep, clock=lambda: next(clock))
    assert len(pids) == LEAST
    assert {masks_of for pid in pids for masks_of in masks(pid)} == ({OTHER} if keep else {ONE})


def test_a_process_that_starts_nothing_is_moved_on_a_node_however_busy(spawner: Callable[[int], int]) -> None:
    pid, clock = spawner(0), itertools.count(step=1000)
    move(PROCFS, {}, lambda: listed(pid), through(CpuMap([ONE], [OTHER])), clock=lambda: next(clock))
    assert masks(pid) == {OTHER}


def test_a_pass_that_may_lack_processes_is_not_the_last_one(spawner: Callable[[int], int]) -> None:
    first, second = spawner(0), spawner(0)
    passes = iter(
        [Pids([first], is_complete=False), Pids([first], is_complete=False), listed(first, second), listed(first, second)]
    )
    move(PROCFS, {}, lambda: next(passes), through(CpuMap([ONE], [OTHER])))
    assert (masks(first), masks(second)) == ({OTHER}, {OTHER})


def test_a_move_of_whom_nobody_can_list_is_given_up(spawner: Callable[[int], int]) -> None:
    pid, clock = spawner(0), itertools.count(step=10)
    with pytest.raises(AffinityError, match="a process that ends before it can be looked at keeps starting"):
        move(PROCFS, {}, lambda: Pids([pid], is_complete=False), through(CpuMap([ONE], [OTHER])), clock=lambda: next(clock))
    assert masks(pid) == {ONE}
