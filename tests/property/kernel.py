"""A made-up kernel: processes, threads and their masks, pids that are used again soon, and descriptors of processes.

Things happen while the agent works: ``events`` are due at one of its next calls. No event comes between reading a thread's mask and setting
it: the kernel has no way to set the mask of a thread except by its id.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

from cmk.agent import allocator, lifetimes
from cmk.host import state
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.tasks import Process

HOST = PodContainer()
PIDS = range(100, 180)
INIT = Process(1, 0)


class Killed(BaseException):
    """kill -9, as seen from inside."""


class Living:
    """A process. ``family`` is the number of the one it descends from that was started by nobody else."""

    def __init__(self, process: Process, container: PodContainer, family: int, mask: CpuSet, parent: int) -> None:
        self.process = process
        self.container = container
        self.family = family
        self.parent = parent
        self.threads = {process.pid: mask}
        self.first_runs = True
        self.end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def running(self) -> dict[int, CpuSet]:
        """Threads that have not ended, with their masks."""
        return {tid: mask for tid, mask in self.threads.items() if tid != self.pid or self.first_runs}


class Kernel(Procfs):
    """Is its own procfs."""

    def __init__(self, cpus: Iterable[int]) -> None:
        super().__init__()
        self.cpus = frozenset(cpus)
        self.processes: dict[int, Living] = {}
        self.families: dict[Process, int] = {}
        self.events: list[tuple[int, Callable[[], None]]] = []
        self.calls = 0
        self.die_at = -1
        self.is_killed = False
        self._given: set[int] = set()
        self._next = itertools.cycle(PIDS)
        self._starts = itertools.count(1)
        self._family = itertools.count(1)

    def start(self, container: PodContainer, parent: Living | None = None, mask: CpuSet | None = None, pid: int = 0) -> Living:
        """A new process; with a parent its child, with the mask of the thread that forks."""
        process = Process(pid or self._new_id(), next(self._starts))
        family = parent.family if parent else next(self._family)
        living = Living(process, container, family, self.cpus if mask is None else mask, parent.pid if parent else INIT.pid)
        self.processes[process.pid] = living
        self.families[process] = family
        return living

    def add_thread(self, living: Living, mask: CpuSet) -> None:
        living.threads[self._new_id()] = mask

    def end(self, living: Living) -> None:
        """End a process with all of its threads; its parent has waited for it at once."""
        if self.processes.get(living.pid) is living:
            del self.processes[living.pid]
            for child in self.processes.values():
                if child.parent == living.pid:
                    child.parent = INIT.pid
            os.eventfd_write(living.end, 1)
            os.close(living.end)

    def end_thread(self, living: Living, tid: int) -> None:
        if tid == living.pid:
            living.first_runs = False
        else:
            living.threads.pop(tid, None)
        if not living.running:
            self.end(living)

    def descriptor(self, living: Living) -> int:
        descriptor = os.dup(living.end)
        self._given.add(descriptor)
        return descriptor

    def close(self) -> None:
        """End all processes, and close the descriptors that agents had open when they were killed."""
        for living in list(self.processes.values()):
            self.end(living)
        for descriptor in self._given:
            with suppress(OSError):
                if Path(f"/proc/self/fd/{descriptor}").readlink().name == "anon_inode:[eventfd]":
                    os.close(descriptor)

    def call(self) -> None:
        """A call of the agent: what is due happens before it."""
        self.calls += 1
        due = [event for at, event in self.events if at <= self.calls]
        self.events = [(at, event) for at, event in self.events if at > self.calls]
        for event in due:
            event()

    def change(self) -> None:
        """The agent is about to change something, or has just done it."""
        self.calls += 1
        if self.is_killed or self.calls >= self.die_at > 0:
            self.is_killed = True
            raise Killed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context the agent's calls come here."""
        replace = state.replace

        def replaced(*args: Any, **more: Any) -> None:  # noqa: ANN401
            self.call()
            self.change()
            replace(*args, **more)
            self.change()

        with (
            mock.patch.object(lifetimes, "LAST_PAUSE", 0),
            mock.patch.object(allocator, "SECONDS_TO_SETTLE", 0),
            mock.patch.object(os, "sched_getaffinity", self._get),
            mock.patch.object(os, "sched_setaffinity", self._set),
            mock.patch.object(os, "pidfd_open", lambda pid: self.descriptor(self._of(pid))),
            mock.patch.object(state, "replace", replaced),
        ):
            yield

    def start_time(self, pid: int) -> int:
        self.call()
        if pid in self.processes:
            return self.processes[pid].process.start
        return self._thread(pid).process.start

    def parent(self, pid: int) -> int:
        return 0 if pid == INIT.pid else self._of(pid).parent

    def name(self, pid: int) -> str:
        return "x"

    def process(self, pid: int) -> Process:
        return INIT if pid == INIT.pid else self._of(pid).process

    def is_alive(self, process: Process) -> bool:
        self.call()
        return process.pid in self.processes and self.processes[process.pid].process == process

    def first_thread_runs(self, pid: int) -> bool:
        return self._of(pid).first_runs

    def pod_container(self, pid: int) -> PodContainer:
        return self._of(pid).container

    def has_thread(self, pid: int, tid: int) -> bool:
        self.call()
        return pid in self.processes and tid in self.processes[pid].threads

    def is_namespace_init(self, pid: int) -> bool:
        self._of(pid)
        return False

    def pids(self) -> Iterator[int]:
        self.call()
        return iter(sorted(self.processes))

    def threads(self, pid: int) -> list[int]:
        return list(self._of(pid).threads)

    def boot_id(self) -> str:
        return "boot"

    @property
    def is_crowded(self) -> bool:
        """Whether so much runs that nothing more should be started."""
        return len(self._taken()) > len(PIDS) // 3

    def _taken(self) -> set[int]:
        return {tid for living in self.processes.values() for tid in living.threads} | set(self.processes)

    def _new_id(self) -> int:
        taken = self._taken()
        return next(number for number in self._next if number not in taken)

    def _of(self, pid: int) -> Living:
        self.call()
        if pid not in self.processes:
            raise ProcessLookupError(pid)
        return self.processes[pid]

    def _thread(self, tid: int) -> Living:
        for living in self.processes.values():
            if tid in living.threads:
                return living
        raise ProcessLookupError(tid)

    def _get(self, tid: int) -> set[int]:
        self.call()
        return set(self._thread(tid).threads[tid])

    def _set(self, tid: int, cpus: Iterable[int]) -> None:
        self.change()
        self._thread(tid).threads[tid] = frozenset(cpus)
        self.change()
