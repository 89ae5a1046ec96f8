"""Knows when a task has ended: its process by pidfd, then whatever it left behind on its lists."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

import msgspec

from cmk.host.members import find_members
from cmk.host.peer import has_ended
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)


class _Held(msgspec.Struct):
    """Open pidfds of one task, by the process they stand for. ``alone``: when the first ends, nothing can be left."""

    task: Task
    alone: bool
    pidfds: dict[Process, int]


class Lifetimes:
    """Watches tasks and calls ``released(process)`` once nothing of a task runs any more.

    ``cpus_of`` tells a task's CPUs; ``others_of`` the CPU sets of all other tasks in its container.
    """

    def __init__(
        self,
        procfs: Procfs,
        released: Callable[[Process], None],
        cpus_of: Callable[[Task], CpuSet],
        others_of: Callable[[Task], list[CpuSet]],
    ) -> None:
        self._procfs = procfs
        self._released = released
        self._cpus_of = cpus_of
        self._others_of = others_of
        self._held: dict[Process, _Held] = {}

    def watch(self, task: Task, pidfd: int) -> None:
        """Follow a new task; takes the pidfd over."""
        try:
            alone = self._procfs.is_namespace_init(task.process.pid)
        except ProcessLookupError:
            alone = False
        held = self._held[task.process] = _Held(task, alone, {})
        self._add(held, task.process, pidfd)

    def adopt(self, task: Task) -> bool:
        """Follow a task of an earlier agent; False when nothing of it runs any more."""
        process = task.process
        try:
            pidfd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            pidfd = -1
        if pidfd >= 0 and self._procfs.is_alive(process):
            self.watch(task, pidfd)
            return True
        if pidfd >= 0:
            os.close(pidfd)
        held = self._held[process] = _Held(task, False, {})
        if self._watch_members(held):
            return True
        del self._held[process]
        return False

    def replace(self, task: Task) -> None:
        """The process has a new task on other lists."""
        if held := self._held.get(task.process):
            held.task = task

    def is_watched(self, process: Process) -> bool:
        """Whether the task of a process is followed."""
        return process in self._held

    def sweep(self) -> bool:
        """Deal with every end that the event loop has not told yet; returns whether there was one."""
        ended = [(held, process) for held in self._held.values() for process, pidfd in held.pidfds.items() if has_ended(pidfd)]
        for held, process in ended:
            self._on_end(held, process)
        return bool(ended)

    def close(self) -> None:
        """Stop following; the tasks go on."""
        for held in self._held.values():
            for process in list(held.pidfds):
                self._drop(held, process)
        self._held.clear()

    def _add(self, held: _Held, process: Process, pidfd: int) -> None:
        held.pidfds[process] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._on_end, held, process)

    def _drop(self, held: _Held, process: Process) -> None:
        pidfd = held.pidfds.pop(process)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _on_end(self, held: _Held, process: Process) -> None:
        if process not in held.pidfds:
            return  # swept before the loop came to it
        self._drop(held, process)
        if held.pidfds or (not held.alone and self._watch_members(held)):
            return
        del self._held[held.task.process]
        self._released(held.task.process)

    def _watch_members(self, held: _Held) -> bool:
        """Find what still runs on the task's lists; a process forked while we look is found when its parent ends."""
        task = held.task
        place = PodContainer(task.pod, task.container)
        for member in find_members(self._procfs, place, self._cpus_of(task), self._others_of(task)):
            try:
                pidfd = os.pidfd_open(member.pid)
            except ProcessLookupError:
                continue
            if self._procfs.is_alive(member):
                log.info("process %d of %s still runs on the lists of process %d", member.pid, task.pod, task.process.pid)
                self._add(held, member, pidfd)
            else:
                os.close(pidfd)
        return bool(held.pidfds)
