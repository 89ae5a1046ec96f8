"""bench reconfigure: threads of a task moved to other CPUs, compared with bare ``sched_setaffinity``; and how long they are in between."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from cmk.host import mover, state
from cmk.host.journal import JournaledChange
from cmk.host.pauses import Pausing, without_pause
from cmk.host.procfs import Procfs
from cmk.model.config import Section
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.plan import plan
from cmk.model.remap import CpuMap
from cmk.model.tasks import Process, Task, TasksFile
from cmk.model.topology import Topology

if TYPE_CHECKING:
    from collections.abc import Iterator

CPUS = sorted(os.sched_getaffinity(0))[:2]
FIRST, SECOND = (frozenset({cpu}) for cpu in CPUS)
PROCFS = Procfs()
_SLEEPERS = """
import sys, threading
threading.stack_size(65536)
for _ in range(int(sys.argv[1]) - 1):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def sleepers(count: int) -> Iterator[int]:
    """Start a process with this number of threads on the first CPU; returns its pid."""
    command = [sys.executable, "-I", "-S", "-c", _SLEEPERS, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit("bench: the process with threads did not start")
        place(process.pid, FIRST)
        yield process.pid
        process.kill()


def place(pid: int, cpus: frozenset[int]) -> None:
    """All threads on these CPUs."""
    for tid in PROCFS.threads(pid):
        os.sched_setaffinity(tid, cpus)


def layout(exclusive: frozenset[int], infra: frozenset[int]) -> SavedLayout:
    """One exclusive core, one for infra."""
    pools = {
        "exclusive": Pool("exclusive", True, (CpuList(exclusive, 0),)),
        "infra": Pool("infra", False, (CpuList(infra, 0),)),
    }
    return SavedLayout(Layout(pools), Section({}, f"{min(exclusive)}"), "bench", Topology(()))


def measured(work: Callable[[], None]) -> float:
    """Microseconds that a call takes."""
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / 1000


class Swap:
    """A task on the exclusive core and one of infra exchange cores; a change of pools writes its files below ``root``."""

    def __init__(self, root: Path, owner: int, other: int) -> None:
        self._root = root
        self._owner, self._other = PROCFS.process(owner), PROCFS.process(other)
        self._there, self._back = layout(FIRST, SECOND), layout(SECOND, FIRST)

    def make(self) -> tuple[float, float]:
        """There and back; microseconds of the first, and those in which some thread of the owner was on neither of its cores alone."""
        place(self._owner.pid, FIRST)
        place(self._other.pid, SECOND)
        sets: list[tuple[float, int, frozenset[int]]] = []
        real = os.sched_setaffinity

        def noted(tid: int, cpus: frozenset[int]) -> None:
            real(tid, cpus)
            sets.append((time.perf_counter_ns() / 1000, tid, frozenset(cpus)))

        owners = set(PROCFS.threads(self._owner.pid))
        with mock.patch.object(os, "sched_setaffinity", noted):
            took = measured(self._change)
        ours = [when for when, tid, _ in sets if tid in owners]
        return took, ours[-1] - ours[0]

    def _change(self) -> None:
        tasks = [_task(self._owner, "exclusive", FIRST), _task(self._other, "infra", SECOND)]
        change = JournaledChange(self._root / "journal", self._book, PROCFS)
        change.finish(change.start(self._there, self._back, plan(self._there.layout, self._back.layout, tasks)))

    def _book(self, saved: SavedLayout, tasks: list[Task]) -> None:
        state.write(self._root / "layout", saved, durable=True)
        state.write(self._root / "tasks", TasksFile("boot", tasks), durable=False)


def _task(process: Process, pool: str, cpus: frozenset[int]) -> Task:
    return Task(process, pool, (",".join(map(str, sorted(cpus))),))


def main(directory: str, rounds: int) -> None:
    """Print the table."""
    print(f"{f'microseconds, {rounds} rounds':40}{'threads':>8}{'p50':>10}{'max':>10}{'x bare':>9}")
    for count in (10, 100, 1000):
        with sleepers(count) as pid, sleepers(1) as other:
            _measure(Path(directory), pid, other, count, rounds)


def _measure(root: Path, pid: int, other: int, count: int, rounds: int) -> None:
    threads = PROCFS.threads(pid)
    cpu_map = CpuMap([FIRST], [SECOND])

    def bare() -> None:
        for tid in threads:
            os.sched_setaffinity(tid, SECOND)

    def listed() -> Pausing[mover.Pids]:
        return mover.Pids([pid], is_complete=True)
        yield

    def ours() -> None:
        without_pause(mover.move(PROCFS, {pid: threads}, listed, lambda _, mask: cpu_map.new_mask(mask)))

    def taskset() -> None:
        subprocess.run(["taskset", "-apc", str(min(SECOND)), str(pid)], check=True, stdout=subprocess.DEVNULL)

    ways = {
        "bare sched_setaffinity, threads known": bare,
        "taskset -ap, its own start included": taskset,
        "ours: read, moved, read back, looked again": ours,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    whole, between = [], []
    swap = Swap(root, pid, other)
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            place(pid, FIRST)
            times[name].append(measured(ways[name]))
        took, apart = swap.make()
        whole.append(took)
        between.append(apart)
    base = statistics.median(times["bare sched_setaffinity, threads known"])
    rows = {**times, "whole change, a swap, with its journal": whole, "of that outside its pools, parked": between}
    for name, taken in rows.items():
        middle = statistics.median(taken)
        print(f"{name:40}{count:8}{middle:10.0f}{max(taken):10.0f}{middle / base:9.2f}")


main(sys.argv[1], int(sys.argv[2]))
