"""The lifetimes of tasks: a task ends with its first process, or with the last of those that its first process leaves on its CPU lists.

Ends are seen through pidfds (``ends.py``), by the event loop or by ``sweep`` before it. Of the processes that are left, one is watched,
however many a workload forks: when it ends, the others are searched for again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from time import thread_time

import msgspec

from cmk.agent.ends import Ends
from cmk.host.members import Search
from cmk.host.peer import has_ended, open_process
from cmk.host.procfs import Procfs
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)

# The pause between two searches for processes of the same task: twice as long after each, for a workload decides how soon those end.
FIRST_PAUSE = 0.01
LAST_PAUSE = 1.0
# Seconds of CPU time: after a search that took more and did not end its task, the pod's next one comes after so many times as long. Others
# wait for the event loop, and a pod decides for how many tasks it leaves processes that are hard to find.
LONG_SEARCH = 0.005
REST = 10


class _WatchedTask(msgspec.Struct):
    """A task and open pidfds of its processes. ``is_alone``: when its first process ends, the kernel has ended all others.

    ``search`` is the next search for its processes, while it is uncertain whether it has any; none comes before ``next_search``. ``fault``
    says why the last one failed.
    """

    task: Task
    is_alone: bool
    pidfds: dict[Process, int]
    search: asyncio.TimerHandle | None = None
    next_search: float = 0.0
    pause: float = 0.0
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
        # By process, and by the first process of the task: the tasks of which a process is watched.
        self._holders: defaultdict[Process, dict[Process, _WatchedTask]] = defaultdict(dict)
        self._ends: Ends[tuple[_WatchedTask, Process]] = Ends(self.sweep)
        self._rests: dict[str, float] = {}  # until when no task of a pod is searched for

    def watch(self, task: Task, pidfd: int) -> None:
        """Watch a task until it ends. Takes over the pidfd of its first process; a process that is watched already has this task now.

        Raises OSError, with nothing taken over, when the kernel cannot watch one more.
        """
        if task.process in self._watched:
            os.close(pidfd)
            self.update(task)
        else:
            watched = _WatchedTask(task, False, {})
            self._add(watched, task.process, pidfd)
            self._watched[task.process] = watched
            asyncio.get_running_loop().call_soon(self._find_alone, watched)  # the client does not wait for it
        for first, other in self._holders.get(task.process, {}).items():
            if first != task.process:
                # It has lists of its own now: whether it still runs on those of the other task, a search tells.
                asyncio.get_running_loop().call_soon(self._on_process_end, other, task.process)

    def adopt(self, task: Task) -> bool:
        """Watch a task whose process may have ended; False when none of its processes runs any more. Raises OSError as ``watch`` does."""
        try:
            pidfd = open_process(self._procfs, task.process).pidfd
        except ProcessLookupError:
            return self.hold(task)
        try:
            self.watch(task, pidfd)
        except OSError:
            os.close(pidfd)
            raise
        return True

    def hold(self, task: Task) -> bool:
        """Watch a task by what a search finds, also later if no descriptor is free; False when none of its processes runs any more."""
        watched = _WatchedTask(task, False, {})
        if not self._add_member(watched):
            return False
        self._watched[task.process] = watched
        return True

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
        for watched, process in self._ends.found():
            self._on_process_end(watched, process)

    def close(self) -> None:
        """Stop watching; the tasks run on."""
        for process in list(self._watched):
            self.forget(process)
        self._ends.close()

    def _find_alone(self, watched: _WatchedTask) -> None:
        pid, pidfd = watched.task.process.pid, watched.pidfds.get(watched.task.process)
        with suppress(OSError):  # as a rule it has ended: a search tells
            watched.is_alone = pidfd is not None and self._procfs.is_namespace_init(pid) and not has_ended(pidfd)

    def _close(self, watched: _WatchedTask) -> None:
        if watched.search is not None:
            watched.search.cancel()
        for process in list(watched.pidfds):
            self._remove(watched, process)

    def _add(self, watched: _WatchedTask, process: Process, pidfd: int) -> None:
        self._ends.add(pidfd, (watched, process))
        watched.pidfds[process] = pidfd
        self._holders[process][watched.task.process] = watched

    def _remove(self, watched: _WatchedTask, process: Process) -> None:
        pidfd = watched.pidfds.pop(process)
        del self._holders[process][watched.task.process]
        if not self._holders[process]:
            del self._holders[process]
        self._ends.remove(pidfd)
        os.close(pidfd)

    def _on_process_end(self, watched: _WatchedTask, process: Process) -> None:
        if process not in watched.pidfds:
            return  # swept before the event loop came to it
        self._remove(watched, process)
        if not watched.pidfds:
            self._search(watched)

    def _search(self, watched: _WatchedTask) -> None:
        """Search for processes of a task whose watched ones have ended, now or after a pause; without any, the task has ended."""
        watched.search = None
        wait = watched.next_search - asyncio.get_running_loop().time()
        if wait > 0:
            self._search_in(watched, wait)
        elif watched.is_alone or not self._add_member(watched):
            del self._watched[watched.task.process]
            self._on_end(watched.task.process)

    def _search_in(self, watched: _WatchedTask, seconds: float) -> None:
        watched.search = asyncio.get_running_loop().call_later(seconds, self._search, watched)

    def _add_member(self, watched: _WatchedTask) -> bool:
        """Watch a process that still runs on the task's lists, or search again later; False when it is certain that there is none.

        While that cannot be told, as when no descriptor is free or its pod's searches take too long, the task keeps its lists.
        """
        rest = self._rests.get(watched.task.pod, 0.0) - asyncio.get_running_loop().time()
        if rest > 0:
            self._search_in(watched, rest)
            return True
        fault = ""
        try:
            found = self._timed_search(watched.task)
            if found.is_certain and not found.members:
                return False
            self._watch_first(watched, found.members)
        except OSError as error:
            fault = str(error)
        if fault and fault != watched.fault:
            pid = watched.task.process.pid
            log.error("cannot look for what process %d has left on its lists, which stay its own: %s", pid, fault)
        watched.fault = fault
        watched.pause = min(max(2 * watched.pause, FIRST_PAUSE), LAST_PAUSE)
        watched.next_search = asyncio.get_running_loop().time() + watched.pause
        if not watched.pidfds:
            self._search_in(watched, watched.pause)  # those that have ended may have left others
        return True

    def _timed_search(self, task: Task) -> Search:
        begun = thread_time()
        found = self._members_of(task)
        seconds = thread_time() - begun
        if seconds > LONG_SEARCH and (found.members or not found.is_certain):
            now = asyncio.get_running_loop().time()
            self._rests = {pod: until for pod, until in self._rests.items() if until > now}
            self._rests[task.pod] = now + REST * seconds
        return found

    def _watch_first(self, watched: _WatchedTask, members: Iterable[Process]) -> None:
        """Watch the first of these processes that runs. Raises OSError."""
        for member in members:
            try:
                pidfd = open_process(self._procfs, member).pidfd
            except ProcessLookupError:
                continue
            try:
                self._add(watched, member, pidfd)
            except OSError:
                os.close(pidfd)
                raise
            task = watched.task
            log.info("process %d of pod %s still runs on the lists of process %d", member.pid, task.pod, task.process.pid)
            return
