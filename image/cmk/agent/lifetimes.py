"""The lifetimes of tasks: a task ends with its first process, or with the last of those that its first process leaves on its CPU lists.

Ends are seen through pidfds: the event loop, or ``sweep`` before it, finds one readable when its process has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

import msgspec

from cmk.host.members import Search
from cmk.host.peer import has_ended, open_process
from cmk.host.procfs import Procfs
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)

SECONDS_BETWEEN_SEARCHES = 1.0
# How many of the processes that a task has left are watched at a time: each takes a descriptor. When they have ended, a search finds more.
MOST_WATCHED = 64


class _WatchedTask(msgspec.Struct):
    """A task and open pidfds of its processes. ``is_alone``: when its first process ends, the kernel has ended all others.

    ``search`` is the next search for its processes, while it is uncertain whether it has any; ``fault`` says why the last one failed.
    """

    task: Task
    is_alone: bool
    pidfds: dict[Process, int]
    search: asyncio.TimerHandle | None = None
    fault: str = ""


class TaskLifetimes:
    """Watches tasks and calls ``on_end(process)``, with a task's first process, once no process of the task runs any more.

    ``members_of`` searches for the processes that run on a task's lists.
    """

    def __init__(
        self,
        procfs: Procfs,
        on_end: Callable[[Process], None],
        members_of: Callable[[Task], Search],
    ) -> None:
        self._procfs = procfs
        self._on_end = on_end
        self._members_of = members_of
        self._watched: dict[Process, _WatchedTask] = {}

    def watch(self, task: Task, pidfd: int) -> None:
        """Watch a task until it ends. Takes over the pidfd of its first process; a process that is watched already has this task now.

        Raises OSError, with nothing taken over, when the kernel cannot watch one more.
        """
        if task.process in self._watched:
            os.close(pidfd)
            self.update(task)
            return
        try:
            is_alone = self._procfs.is_namespace_init(task.process.pid) and not has_ended(pidfd)
        except ProcessLookupError:
            is_alone = False
        watched = _WatchedTask(task, is_alone, {})
        self._add(watched, task.process, pidfd)
        self._watched[task.process] = watched
        for other in self._watched.values():
            if other is not watched and task.process in other.pidfds:
                # It has lists of its own now: whether it still runs on those of the other task, a search tells.
                asyncio.get_running_loop().call_soon(self._on_process_end, other, task.process)

    def adopt(self, task: Task) -> bool:
        """Watch a task whose process may have ended; False when none of its processes runs any more. Raises OSError as ``watch`` does."""
        try:
            pidfd = open_process(self._procfs, task.process).pidfd
        except ProcessLookupError:
            return self._adopt_members(task)
        try:
            self.watch(task, pidfd)
        except OSError:
            os.close(pidfd)
            raise
        return True

    def _adopt_members(self, task: Task) -> bool:
        watched = self._watched[task.process] = _WatchedTask(task, False, {})
        if self._add_members(watched):
            return True
        del self._watched[task.process]
        return False

    def update(self, task: Task) -> None:
        """Take note that a watched process has this task now: it may be on other lists."""
        if watched := self._watched.get(task.process):
            watched.task = task

    def forget(self, process: Process) -> None:
        """Stop watching the task of a process, which runs on."""
        if watched := self._watched.pop(process, None):
            self._close(watched)

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
        for process in list(self._watched):
            self.forget(process)

    def _close(self, watched: _WatchedTask) -> None:
        if watched.search is not None:
            watched.search.cancel()
        for process in list(watched.pidfds):
            self._remove(watched, process)

    def _add(self, watched: _WatchedTask, process: Process, pidfd: int) -> None:
        asyncio.get_running_loop().add_reader(pidfd, self._on_process_end, watched, process)
        watched.pidfds[process] = pidfd

    def _remove(self, watched: _WatchedTask, process: Process) -> None:
        pidfd = watched.pidfds.pop(process)
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)

    def _on_process_end(self, watched: _WatchedTask, process: Process) -> None:
        if process not in watched.pidfds:
            return  # swept before the event loop came to it
        self._remove(watched, process)
        if not watched.pidfds and (watched.is_alone or not self._add_members(watched)):
            self._end(watched)

    def _end(self, watched: _WatchedTask) -> None:
        del self._watched[watched.task.process]
        self._on_end(watched.task.process)

    def _add_members(self, watched: _WatchedTask) -> bool:
        """Watch the processes that still run on the task's lists; one forked during the search is found when its parent ends.

        False when it is certain that there is none. While that cannot be told, as when no descriptor is free, the task keeps its lists.
        """
        try:
            found = self._members_of(watched.task)
            self._watch_members(watched, found.members)
            fault = ""
        except OSError as error:
            found, fault = Search([], is_certain=False), str(error)
        if fault and fault != watched.fault:
            log.error(
                "cannot look for what process %d has left on its lists, which stay its own: %s", watched.task.process.pid, fault
            )
        watched.fault = fault
        if watched.pidfds:
            return True
        if found.is_certain and not found.members:
            return False
        # Members that have ended since may have left others.
        pause = 0.0 if found.members else SECONDS_BETWEEN_SEARCHES
        watched.search = asyncio.get_running_loop().call_later(pause, self._search_again, watched)
        return True

    def _watch_members(self, watched: _WatchedTask, members: Iterable[Process]) -> None:
        task = watched.task
        for member in members:
            if len(watched.pidfds) >= MOST_WATCHED:
                return
            try:
                pidfd = open_process(self._procfs, member).pidfd
            except ProcessLookupError:
                continue
            try:
                self._add(watched, member, pidfd)
            except OSError:
                os.close(pidfd)
                raise
            log.info("process %d of pod %s still runs on the lists of process %d", member.pid, task.pod, task.process.pid)

    def _search_again(self, watched: _WatchedTask) -> None:
        watched.search = None
        if not self._add_members(watched):
            self._end(watched)
