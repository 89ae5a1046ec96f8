"""Allocation: for each process that asks, and for each task that ends, the ledger, affinities, notice files and the task file in step.

While the agent serves, only a change of pools (``service.py``, which then calls ``moved``) writes them as well.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import msgspec

from cmk.agent.faults import ending_agent
from cmk.agent.files import StateFiles
from cmk.agent.lifetimes import TaskLifetimes
from cmk.agent.pod_cache import PodCache
from cmk.agent.wakeups import Wakeups
from cmk.host import affinity, state
from cmk.host.affinity import AffinityError, Pinning
from cmk.host.kin import Kin
from cmk.host.members import Search, search_members
from cmk.host.notify import DIRECTORY, Notifier, name_of
from cmk.host.peer import Peer, open_pidfd, open_process
from cmk.host.procfs import Procfs
from cmk.model import cpuset, onmove
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.choice import Refused
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.onmove import How, OnMove, OnMoveError
from cmk.model.pods import Pod
from cmk.model.tasks import Origin, Process, Request, Task
from cmk.model.wire import Isolate

log = logging.getLogger(__name__)

# Each is written down with the task; a shell in a container has some ten.
MOST_ANCESTORS = 100
# After an end: what the next agent finds out by itself need not be written before a core goes to who waits for it.
SECONDS_TO_SETTLE = 0.005


class Waiting(msgspec.Struct):
    """Why a request cannot be served yet, and what to await before it is worth another attempt."""

    reason: str
    until: Callable[[], Awaitable[object]]


class Allocator:
    """Serves ``cmk isolate`` requests one by one; both loops are woken after every change of the ledger.

    ``enforce`` makes cpusets fit the ledger: each exclusive list is open to the task that holds it and closed to all other processes.
    """

    def __init__(
        self,
        ledger: Ledger,
        pods: PodCache,
        procfs: Procfs,
        files: StateFiles,
        wakeups: Wakeups,
        enforce: Callable[[], None],
        notifier: Notifier,
    ) -> None:
        self.ledger = ledger
        self.pods = pods
        self._procfs = procfs
        self._files = files
        self._wakeups = wakeups
        self._enforce = enforce
        self._notifier = notifier
        self._released = asyncio.Event()
        self._saving: asyncio.Handle | None = None
        self._lifetimes = TaskLifetimes(procfs, self._on_end, self._left_of)

    def adopt(self, tasks: Iterable[Task]) -> list[Task]:
        """Take over the tasks of an earlier agent; returns those that have ended since.

        A process with two tasks was about to get the second one's lists instead of the first one's when that agent was killed.
        """
        ended = []
        latest: dict[Process, Task] = {}
        given_up: dict[Process, Task] = {}
        for task in tasks:
            if task.process in latest:
                given_up[task.process] = latest[task.process]
            latest[task.process] = task
        # What was left on lists comes last: it starts soonest after the boot, and outside pods it lives as long as another task's process.
        for process, task in sorted(latest.items(), key=lambda item: item[0].start, reverse=True):
            if not self._take(given_up.get(process, task), self._lifetimes.adopt):
                ended.append(task)
        for process, before in given_up.items():
            self._finish_handover(before, latest[process])
        self._notifier.write_all(self.ledger)
        self._try_to_save()
        return ended

    def _take(self, task: Task, watch: Callable[[Task], bool]) -> bool:
        """Take over one task; False if it has ended, as ``watch`` tells."""
        if not self._restore(task):
            return True
        is_watched = False
        try:
            is_watched = watch(task)
        finally:
            if not is_watched:
                self.ledger.release(task.process)
        return is_watched

    def _restore(self, task: Task) -> bool:
        is_restored = self.ledger.restore(task)
        if not is_restored:
            log.error("task of process %d does not fit the layout: pool %s lists %s", task.process.pid, task.pool, task.lists)
        return is_restored

    def join(self, pool: str, own_pod: str) -> None:
        """Make this very process a task of a pool and pin it, as the agent does with infra.

        ``own_pod``: its pod's uid. In a cgroup namespace of its own, which runtimes make with cgroup v2, its cgroup's path names no pod.
        """
        pid = os.getpid()
        process = self._procfs.process(pid)
        container = self._procfs.pod_container(pid)
        if not container.pod:
            container = PodContainer(own_pod)
        request = Request(pool, process, pod=Pod(container.pod, "", "", {}), container=container.container)
        task = self.ledger.allocate(request)
        affinity.pin(self._procfs, pid, self.ledger.cpus_of(task), lambda: False)
        self._lifetimes.watch(task, open_pidfd(pid))
        self._try_to_save()

    def isolate(self, command: Isolate, peer: Peer) -> dict[str, str] | Waiting:
        """Try to allocate for a peer and to pin it. Returns its environment, and has then taken over the pidfd, or what to wait for.

        Raises Refused when waiting cannot help, AffinityError, StateError, ProcessLookupError.
        """
        process, container = peer.read(self._procfs.process), self._container_of(peer)
        pod = self.pods.get(container.pod)
        if pod is None and container.pod and self._needs_grant(command.pool):
            reason = f"pod {container.pod} is not known yet: the API server cannot be reached or does not list it on this node"
            return Waiting(reason, partial(self.pods.find, container.pod))
        request = _request(command, process, container, pod, self._origin_of(command, peer, process, container))
        released = self._released
        try:
            return self._allocate(command, request, peer)
        except Refused as refusal:
            if refusal.final:
                raise
            with ending_agent("cannot release the lists of a task"):
                self._lifetimes.sweep()
            return Waiting(str(refusal), released.wait)

    async def isolate_later(
        self, command: Isolate, peer: Peer, waiting: Waiting, turn: Callable[[], Awaitable[object]]
    ) -> dict[str, str]:
        """Wait, and try again, until the request is served; ``waiting`` always says why it is not yet. The caller sets the deadline.

        Before each attempt it awaits its ``turn``. Returns and raises as ``isolate`` does.
        """
        while True:
            await waiting.until()
            await turn()
            outcome = self.isolate(command, peer)
            if not isinstance(outcome, Waiting):
                return outcome
            waiting.reason, waiting.until = outcome.reason, outcome.until

    def moved(self, layout: Layout, tasks: Iterable[Task]) -> None:
        """Go on with the layout and the tasks that a change of pools has made, and has written to the files already."""
        self.ledger.end(layout, tasks)
        for task in self.ledger.tasks.values():
            self._lifetimes.update(task)
        self._notifier.write_all(self.ledger)
        self._wake()

    def save(self) -> None:
        """Write tasks and grants, so that an agent that starts without an API server knows them."""
        self._save()

    def close(self) -> None:
        """Stop watching the tasks; they run on. Nothing is written any more: the files belong to the next agent."""
        self._lifetimes.close()
        if self._saving is not None:
            self._saving.cancel()

    def _container_of(self, peer: Peer) -> PodContainer:
        try:
            return peer.read(self._procfs.pod_container)
        except MixedCgroupsError as error:
            raise Refused(str(error), final=True) from error

    def _needs_grant(self, name: str) -> bool:
        return self._is_exclusive_pool(name) and self.ledger.require_grant

    def _is_exclusive_pool(self, name: str) -> bool:
        pool = self.ledger.pool(name)
        return pool is not None and pool.exclusive

    def _origin_of(self, command: Isolate, peer: Peer, process: Process, container: PodContainer) -> Origin | msgspec.UnsetType:
        """What tells the processes of a task outside pods, if it is to have cores. Raises Refused."""
        if container.pod or not self._is_exclusive_pool(command.pool) or self.ledger.require_grant:
            return msgspec.UNSET
        ancestors = peer.read(partial(self._procfs.ancestors, most=MOST_ANCESTORS + 1))
        if len(ancestors) > MOST_ANCESTORS:
            raise Refused(f"process {process.pid} has more than {MOST_ANCESTORS} ancestors: start it by fewer", final=True)
        return Origin(process, tuple(ancestors))

    def _allocate(self, command: Isolate, request: Request, peer: Peer) -> dict[str, str]:
        """Allocate, write the files and pin; when a step fails, those before it are undone. Runs without interruption.

        The files come before the pin: a process that is pinned already when the agent is killed has its lists with the next agent.
        """
        before = self.ledger.tasks.get(request.process)
        task = self.ledger.allocate(request)
        given_up = before if before and not _is_within(before, task) else None
        pinning = Pinning(self._procfs, peer.pid, self.ledger.cpus_of(task), peer.has_ended)
        rest = None
        try:
            if given_up:
                self.ledger.keep_open(task.process, self.ledger.cpus_of(given_up))
            self._notifier.write_notice(self.ledger, task)
            self._save(given_up if command.affinity else None)
            self._enforce()
            if command.affinity:
                pinning.pin()
            if given_up:
                rest = self._give_up(given_up, task)
                self.ledger.keep_open(task.process, frozenset())
                self._try_to_save()
                self._enforce()
            environment = self.ledger.environment(task)
            self._lifetimes.watch(task, peer.pidfd)
        except BaseException:
            with ending_agent("cannot undo an allocation"):
                if rest:
                    self._lifetimes.forget(rest.process)
                    self.ledger.release(rest.process)
                self._undo(task, before, pinning)
            raise
        if self._saving is not None:  # all ends until now are saved and enforced
            self._saving.cancel()
            self._saving = None
        if before and before != task:
            self._wake()
        self._wakeups.wake_both()
        # Launchers older than --on-move cannot locate the file, so it is not announced to them.
        if command.on_move is not None and task.on_move.how is How.NOTIFY:
            environment["CMK_STATE"] = f"{DIRECTORY}/{name_of(task.process)}"
        return environment

    def _undo(self, task: Task, before: Task | None, pinning: Pinning, *, is_begun: bool = False) -> None:
        """Undo an allocation. The process holds its lists until it ends if it may still have threads on them.

        ``is_begun``: another agent has begun it, and has perhaps set threads whose masks from before nobody knows.
        """
        is_undone = pinning.undo() and not is_begun
        self.ledger.keep_open(task.process, frozenset())
        is_searched = self._is_searched(task)
        if not is_undone and not is_searched and before is None and self._lifetimes.hold(task):
            self._log_held(task)
            self._try_to_save()
            return
        self.ledger.release(task.process)
        self._notifier.remove_notice(task.process)
        if before:
            self.ledger.restore(before)
        if (is_searched and (pinning.has_set or is_begun)) or (not is_undone and self._is_exclusive(task)):
            self._hold_after_undo(task, before, is_undone=is_undone)
        if before:
            self._notifier.write_all(self.ledger)
        self._try_to_save()
        self._enforce()

    def _hold_after_undo(self, task: Task, before: Task | None, *, is_undone: bool) -> None:
        """Let what runs on the CPUs of an undone allocation hold its lists: a child that was started meanwhile, or threads that were."""
        if before is None or before.pool != task.pool or not set(before.lists) & set(task.lists):
            self._hold_for_left(task)
            return
        more = tuple(name for name in task.lists if name not in before.lists)
        if more and (not is_undone or self._may_have_left(task, before)):
            both = msgspec.structs.replace(before, lists=before.lists + more)
            self.ledger.restore(both)
            self._lifetimes.update(both)
            self._log_held(both)

    def _may_have_left(self, task: Task, before: Task) -> bool:
        try:
            found = self._members_of(task, self.ledger.cpus_of(before))
        except OSError as error:
            log.error("cannot look for what process %d has left on CPUs that it was refused: %s", task.process.pid, error)
            return True
        return bool(found.members) or not found.is_certain

    def _log_held(self, task: Task) -> None:
        log.warning("process %d is refused, but holds lists %s of pool %s until it ends", task.process.pid, task.lists, task.pool)

    def _hold_for_left(self, task: Task) -> Task | None:
        """Let the processes on a task's lists hold them as a task whose first process has ended; returns it, None if there are none."""
        pid = task.process.pid
        # No process has such a start: so soon after the boot there was no container.
        process = next(dead for dead in map(partial(Process, pid), itertools.count()) if dead not in self.ledger.tasks)
        left = _left(task, process)
        self._take(left, self._lifetimes.hold)
        if process not in self.ledger.tasks:
            return None
        log.info(
            "what still runs on lists %s of pool %s, which process %d has not, holds them",
            *(left.lists, left.pool, pid),
        )
        return left

    def _give_up(self, before: Task, task: Task) -> Task | None:
        """Let go of the lists that a process had before those of ``task``. Raises Refused when something runs there that cannot hold them.

        Processes that it has started there go on holding them as a task of their own, which is returned.
        """
        found = self._members_of(before, self.ledger.cpus_of(task))
        remaining = [member for member in found.members if member not in self.ledger.tasks]
        if self._is_exclusive(before):
            where = f"CPUs {cpuset.kernel_list(self.ledger.cpus_of(before))} of pool {before.pool}, which the process gives up"
            if task.process in found.members:
                raise Refused(f"{where}: it still has threads there; move them first", final=True)
            kept = {member.pid for member in found.members if before.pool == task.pool or member not in remaining}
            if kept or not found.is_certain:
                names = ", ".join(map(str, sorted(kept))) or "that start others all the time"
                raise Refused(f"{where}: processes {names} still run there; end them first", final=True)
        return self._book_members(before, remaining) if found.is_certain else self._hold_for_left(before)

    def _book_members(self, task: Task, members: Iterable[Process]) -> Task | None:
        """Make the processes that are left on the lists of a task a task of their own; returns it."""
        for process in members:
            rest = _left(task, process)
            if self._take(rest, self._lifetimes.adopt) and process in self.ledger.tasks:
                log.info("process %d still runs on the lists that process %d has given up", process.pid, task.process.pid)
                return rest
        return None

    def _finish_handover(self, given_up: Task, task: Task) -> None:
        """Let a process have the lists of ``task`` instead of those that it was giving up; it keeps these where that fails."""
        try:
            peer = open_process(self._procfs, task.process)
        except ProcessLookupError:
            self._hold_for_left(task)
            return
        before = self.ledger.tasks.get(task.process)  # None if the layout lacks the lists of ``given_up``
        if self._restore(task):
            pinning = Pinning(self._procfs, peer.pid, self.ledger.cpus_of(task), peer.has_ended)
            try:
                pinning.pin()
                if before:
                    self._give_up(given_up, task)
            except (AffinityError, Refused, ProcessLookupError) as error:
                log.warning("process %d keeps the lists that it was about to give up: %s", peer.pid, error)
                self._undo(task, before, pinning, is_begun=True)
        if now := self.ledger.tasks.get(task.process):
            self._lifetimes.watch(now, peer.pidfd)
        else:
            os.close(peer.pidfd)

    def _is_exclusive(self, task: Task) -> bool:
        return self.ledger.layout.pools[task.pool].exclusive

    def _left_of(self, task: Task) -> Search:
        """Search for what keeps a task alive whose first process has ended, or never held its lists alone."""
        if self.ledger.is_beside_moving(task):
            return Search([], is_certain=False)
        if self._is_searched(task):
            return self._members_of(task)
        # What a process that was refused may have left on the lists ends with it.
        same_pid = [process for process in self.ledger.tasks if process.pid == task.process.pid]
        return Search([process for process in same_pid if self._procfs.is_alive(process)], is_certain=True)

    def _is_searched(self, task: Task) -> bool:
        """Whether a search tells the processes of a task: outside pods, anybody may have been started on the CPUs of a shared pool."""
        return bool(task.pod or task.origin)

    def _members_of(self, task: Task, *others: CpuSet) -> Search:
        """Search for the processes on a task's lists; those on the CPUs of other tasks in its container, or on ``others``, do not count."""
        container = PodContainer(task.pod, task.container)
        kin = Kin(self._procfs, task.origin) if task.origin else None
        return search_members(self._procfs, container, self.ledger.cpus_of(task), [*self.ledger.beside(task), *others], kin)

    def _on_end(self, process: Process) -> None:
        self.ledger.release(process)
        self._notifier.remove_notice(process)
        self._wake()
        if self._saving is None:
            self._saving = asyncio.get_running_loop().call_later(SECONDS_TO_SETTLE, self._settle_ends)
        self._wakeups.wake_both()

    def _settle_ends(self) -> None:
        """Save and enforce once for all ends that come at once: there are hundreds when a container is killed.

        Who waits for a core gets it before that, for an allocation saves and enforces itself.
        """
        self._saving = None
        self._try_to_save()
        self._enforce()

    def _wake(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    def _save(self, given_up: Task | None = None) -> None:
        """Write the tasks. One that its process is giving up comes before the one that it gets instead."""
        tasks = [*([given_up] if given_up else []), *self.ledger.tasks.values()]
        self._files.write_tasks(tasks, self.pods.all.values())

    def _try_to_save(self) -> None:
        """Save what the next agent can do without: it drops the tasks of processes that are dead, and takes over those that still run."""
        try:
            self._save()
        except state.StateError as error:
            log.error("%s", error)


def _is_within(before: Task, task: Task) -> bool:
    """Whether a task has all lists of the one before."""
    return before.pool == task.pool and set(before.lists) <= set(task.lists)


def _left(task: Task, process: Process) -> Task:
    """A task for processes that are left on the lists of another: they have not asked for notices or signals."""
    on_move = task.on_move if task.on_move.how is How.PINNED else OnMove()
    return msgspec.structs.replace(task, process=process, on_move=on_move)


def _request(
    command: Isolate, process: Process, container: PodContainer, pod: Pod | None, origin: Origin | msgspec.UnsetType
) -> Request:
    if container.pod:
        # A task bears the name that is in the cgroup, which a static pod's uid on the API is not.
        known = pod or Pod(container.pod, "", container.pod, {})
        pod = msgspec.structs.replace(known, uid=container.pod)
    on_move = _on_move(command, pod)
    return Request(command.pool, process, command.cores, command.socket, pod, container.container, on_move, origin)


def _on_move(command: Isolate, pod: Pod | None) -> OnMove:
    """The command line's ``--on-move``, else the pod's annotation; raises Refused."""
    text = command.on_move or (pod.on_move if pod else "")
    try:
        return onmove.parse(text) if text else OnMove()
    except OnMoveError as error:
        where = "" if command.on_move else f"annotation {onmove.ANNOTATION} of pod {pod}: "
        raise Refused(f"{where}{error}", final=True) from error
