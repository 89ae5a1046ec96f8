"""The lifetimes of tasks: a task ends with its first process, or with the last of those that its first process leaves on its CPU lists.

Ends are seen through pidfds: the event loop, or ``sweep`` before it, finds one readable when its process has ended.
"""

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


class _WatchedTask(msgspec.Struct):
    """A task and open pidfds of its processes. ``is_alone``: when its first process ends, the kernel has ended all others."""

    task: Task
    is_alone: bool
    pidfds: dict[Process, int]


class TaskLifetimes:
    """Watches tasks and calls ``on_end(process)``, with a task's first process, once no process of the task runs any more.

    ``cpus_of`` returns a task's CPUs, ``others_of`` the CPU sets of all other tasks in its container.
    """

    def __init__(
        self,
        procfs: Procfs,
        on_end: Callable[[Process], None],
        cpus_of: Callable[[Task], CpuSet],
        others_of: Callable[[Task], list[CpuSet]],
    ) -> None:
        self._procfs = procfs
        self._on_end = on_end
        self._cpus_of = cpus_of
        self._others_of = others_of
        self._watched: dict[Process, _WatchedTask] = {}

    def watch(self, task: Task, pidfd: int) -> None:
        """Watch a task until it ends. Takes over the pidfd of its first process; a process that is watched already has this task now."""
        if task.process in self._watched:
            os.close(pidfd)
            self.update(task)
            return
        try:
            is_alone = self._procfs.is_namespace_init(task.process.pid)
        except ProcessLookupError:
            is_alone = False
        watched = self._watched[task.process] = _WatchedTask(task, is_alone, {})
        self._add(watched, task.process, pidfd)

    def adopt(self, task: Task) -> bool:
        """Watch a task of an earlier agent; False when none of its processes runs any more."""
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
        watched = self._watched[process] = _WatchedTask(task, False, {})
        if self._add_members(watched):
            return True
        del self._watched[process]
        return False

    def update(self, task: Task) -> None:
        """Take note that a watched process has this task now: it may be on other lists."""
        if watched := self._watched.get(task.process):
            watched.task = task

    def sweep(self) -> None:
        """Handle every end that the event loop has not come to yet."""
        ended = [
            (watched, process)
            for watched in self._watched.values()
            for process, pidfd in watched.pidfds.items()
            if has_ended(pidfd)
        ]
        for watched, process in ended:
            self._on_process_end(watched, process)

    def close(self) -> None:
        """Stop watching; the tasks run on."""
        for watched in self._watched.values():
            for process in list(watched.pidfds):
                self._remove(watched, process)
        self._watched.clear()

    def _add(self, watched: _WatchedTask, process: Process, pidfd: int) -> None:
        watched.pidfds[process] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._on_process_end, watched, process)

    def _remove(self, watched: _WatchedTask, process: Process) -> None:
        pidfd = watched.pidfds.pop(process)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _on_process_end(self, watched: _WatchedTask, process: Process) -> None:
        if process not in watched.pidfds:
            return  # swept before the event loop came to it
        self._remove(watched, process)
        if watched.pidfds or (not watched.is_alone and self._add_members(watched)):
            return
        del self._watched[watched.task.process]
        self._on_end(watched.task.process)

    def _add_members(self, watched: _WatchedTask) -> bool:
        """Watch the processes that still run on the task's lists; one forked during the search is found when its parent ends."""
        task = watched.task
        place = PodContainer(task.pod, task.container)
        for member in find_members(self._procfs, place, self._cpus_of(task), self._others_of(task)):
            try:
                pidfd = os.pidfd_open(member.pid)
            except ProcessLookupError:
                continue
            if self._procfs.is_alive(member):
                log.info("process %d of pod %s still runs on the lists of process %d", member.pid, task.pod, task.process.pid)
                self._add(watched, member, pidfd)
            else:
                os.close(pidfd)
        return bool(watched.pidfds)
