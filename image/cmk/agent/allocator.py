"""Allocation: for each process that asks, and for each task that ends, the ledger, affinities, notice files and the task file in step.

While the agent serves, only a change of pools (``service.py``, which then calls ``moved``) writes them as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import msgspec

from cmk.agent.files import StateFiles
from cmk.agent.lifetimes import TaskLifetimes
from cmk.agent.pod_cache import PodCache
from cmk.agent.wakeups import Wakeups
from cmk.host import affinity, state
from cmk.host.notify import DIRECTORY, Notifier, name_of
from cmk.host.peer import Peer, has_ended
from cmk.host.procfs import Procfs
from cmk.model import onmove
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.choice import Refused
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.onmove import How, OnMove, OnMoveError
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Request, Task
from cmk.model.wire import Isolate

log = logging.getLogger(__name__)


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
        self._lifetimes = TaskLifetimes(procfs, self._on_end, ledger.cpus_of, self._others_in_container)

    def adopt(self, tasks: Iterable[Task]) -> list[Task]:
        """Take over the tasks of an earlier agent; returns those that have ended since."""
        ended = []
        for task in tasks:
            if not self.ledger.restore(task):
                log.error("task of process %d does not fit the layout: pool %s lists %s", task.process.pid, task.pool, task.lists)
            elif not self._lifetimes.adopt(task):
                self.ledger.release(task.process)
                ended.append(task)
        self._notifier.write_all(self.ledger)
        self._try_to_save()
        return ended

    def join(self, pool: str) -> None:
        """Make this very process a task of a pool and pin it, as the agent does with infra."""
        pid = os.getpid()
        process = self._procfs.process(pid)
        container = self._procfs.pod_container(pid)
        request = Request(pool, process, pod=Pod(container.pod, "", "", {}), container=container.container)
        task = self.ledger.allocate(request)
        affinity.pin(self._procfs, pid, self.ledger.cpus_of(task))
        self._lifetimes.watch(task, os.pidfd_open(pid))
        self._try_to_save()

    def isolate(self, command: Isolate, peer: Peer) -> dict[str, str] | Waiting:
        """Try to allocate for a peer and to pin it. Returns its environment, and has then taken over the pidfd, or what to wait for.

        Raises Refused when waiting cannot help, AffinityError, StateError, ProcessLookupError.
        """
        process, container = self._procfs.process(peer.pid), self._container_of(peer)
        if has_ended(peer.pidfd):
            raise ProcessLookupError(f"process {peer.pid} is gone")  # and its pid may be another's, which was looked at
        pod = self.pods.get(container.pod)
        if pod is None and container.pod and self._needs_grant(command.pool):
            reason = f"pod {container.pod} is not known yet: the API server cannot be reached or does not list it on this node"
            return Waiting(reason, partial(self.pods.find, container.pod))
        request = _request(command, process, container, pod)
        released = self._released
        try:
            return self._allocate(command, request, peer)
        except Refused as refusal:
            if refusal.final:
                raise
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
        """Stop watching the tasks; they run on."""
        self._lifetimes.close()

    def _container_of(self, peer: Peer) -> PodContainer:
        try:
            return self._procfs.pod_container(peer.pid)
        except MixedCgroupsError as error:
            raise Refused(str(error), final=True) from error

    def _needs_grant(self, name: str) -> bool:
        pool = self.ledger.pool(name)
        return pool is not None and pool.exclusive and self.ledger.require_grant

    def _allocate(self, command: Isolate, request: Request, peer: Peer) -> dict[str, str]:
        """Allocate, pin and write the files; when a step fails, those before it are undone. Runs without interruption."""
        before = self.ledger.tasks.get(request.process)
        task = self.ledger.allocate(request)
        try:
            self._enforce()
            if command.affinity:
                affinity.pin(self._procfs, peer.pid, self.ledger.cpus_of(task))
            self._notifier.write_notice(self.ledger, task)
            self._save()
        except BaseException:
            self._undo(task, before)
            raise
        self._lifetimes.watch(task, peer.pidfd)
        if before and before != task:
            self._wake()
        self._wakeups.wake_both()
        environment = self.ledger.environment(task)
        # Launchers older than --on-move cannot locate the file, so it is not announced to them.
        if command.on_move is not None and task.on_move.how is How.NOTIFY:
            environment["CMK_STATE"] = f"{DIRECTORY}/{name_of(task.process)}"
        return environment

    def _undo(self, task: Task, before: Task | None) -> None:
        self.ledger.release(task.process)
        self._notifier.remove_notice(task.process)
        if before:
            self.ledger.restore(before)
            self._notifier.write_all(self.ledger)
        self._enforce()

    def _others_in_container(self, task: Task) -> list[CpuSet]:
        return [
            self.ledger.cpus_of(other)
            for other in self.ledger.tasks.values()
            if other.process != task.process and (other.pod, other.container) == (task.pod, task.container)
        ]

    def _on_end(self, process: Process) -> None:
        self.ledger.release(process)
        self._notifier.remove_notice(process)
        self._enforce()
        self._wake()
        self._try_to_save()
        self._wakeups.wake_both()

    def _wake(self) -> None:
        self._released.set()
        self._released = asyncio.Event()

    def _try_to_save(self) -> None:
        """Save what the next agent can do without: the file goes on naming processes that are dead, whose tasks it drops."""
        try:
            self._save()
        except state.StateError as error:
            log.error("%s", error)

    def _save(self) -> None:
        self._files.write_tasks(self.ledger.tasks.values(), self.pods.all.values())


def _request(command: Isolate, process: Process, container: PodContainer, pod: Pod | None) -> Request:
    if container.pod:
        # A task bears the name that is in the cgroup, which a static pod's uid on the API is not.
        known = pod or Pod(container.pod, "", container.pod, {})
        pod = msgspec.structs.replace(known, uid=container.pod)
    return Request(command.pool, process, command.cores, command.socket, pod, container.container, _on_move(command, pod))


def _on_move(command: Isolate, pod: Pod | None) -> OnMove:
    """The command line's ``--on-move``, else the pod's annotation; raises Refused."""
    text = command.on_move or (pod.on_move if pod else "")
    try:
        return onmove.parse(text) if text else OnMove()
    except OnMoveError as error:
        where = "" if command.on_move else f"annotation {onmove.ANNOTATION} of pod {pod}: "
        raise Refused(f"{where}{error}", final=True) from error
