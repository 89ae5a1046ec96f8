"""Allocation on the node: ledger, affinity, task file and queue kept in step. The only place that changes any of them."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from cmk.agent.lifetimes import Lifetimes
from cmk.agent.pod_cache import Pods
from cmk.host import affinity, state
from cmk.host.notify import DIRECTORY, Notifier, name_of
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model import onmove
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.choice import Refused
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.onmove import How, OnMove, OnMoveError
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Request, Task, TasksFile
from cmk.model.wire import Isolate

log = logging.getLogger(__name__)


class Allocator:
    """Serves ``cmk isolate`` requests one by one; ``changed`` is called after every change of the ledger.

    ``clear`` makes the cpusets of everybody fit what is booked: the owner's open, all others closed.
    """

    def __init__(
        self,
        ledger: Ledger,
        pods: Pods,
        procfs: Procfs,
        tasks_file: Path,
        changed: Callable[[], None],
        clear: Callable[[], None],
        notifier: Notifier,
    ) -> None:
        self.ledger = ledger
        self.pods = pods
        self._procfs = procfs
        self._file = tasks_file
        self._changed = changed
        self._clear = clear
        self._notifier = notifier
        self._boot = procfs.boot_id()
        self._freed = asyncio.Event()
        self._lifetimes = Lifetimes(procfs, self._on_released, ledger.cpus_of, self._others_in_container)

    def adopt(self, tasks: Iterable[Task]) -> list[Task]:
        """Take over the tasks of an earlier agent; returns those that ended meanwhile."""
        ended = []
        for task in tasks:
            if not self.ledger.restore(task):
                log.error("task of process %d does not fit the layout: pool %s lists %s", task.process.pid, task.pool, task.lists)
            elif not self._lifetimes.adopt(task):
                self.ledger.release(task.process)
                ended.append(task)
        self._notifier.write_all(self.ledger)
        self._save()
        return ended

    def join(self, pool: str) -> None:
        """Pin this very process to a pool and enter it there, as the agent does with infra."""
        pid = os.getpid()
        process = self._procfs.process(pid)
        place = self._procfs.place(pid)
        task = self.ledger.allocate(Request(pool, process, pod=Pod(place.pod, "", "", {}), container=place.container))
        affinity.pin(self._procfs, pid, self.ledger.cpus_of(task))
        self._lifetimes.watch(task, os.pidfd_open(pid))
        self._save()

    def place(self, peer: Peer) -> PodContainer:
        """Pod and container of a peer; raises Refused, ProcessLookupError."""
        try:
            return self._procfs.place(peer.pid)
        except MixedCgroupsError as error:
            raise Refused(str(error), final=True) from error

    def isolate_now(self, asked: Isolate, peer: Peer, place: PodContainer) -> dict[str, str] | None:
        """Serve at once what needs no waiting: the same as ``isolate``, or None when that would wait."""
        pod = self.pods.get(place.pod)
        if pod is None and place.pod and self._needs_grant(asked.pool):
            return None
        request = self._request_of(asked, self._procfs.process(peer.pid), place, pod)
        try:
            return self._try(asked, request, peer)
        except Refused as refusal:
            if refusal.final:
                raise
            return None

    async def isolate(self, asked: Isolate, peer: Peer) -> dict[str, str]:
        """Allocate for the peer and pin it; returns its environment. Takes the pidfd over when it succeeds.

        Waits for a list or a pod to become known until cancelled; raises Refused, AffinityError, StateError, ProcessLookupError.
        """
        request = await self._request(asked, peer)
        while True:
            try:
                return self._try(asked, request, peer)
            except Refused as refusal:
                if refusal.final:
                    raise
                if not self._lifetimes.sweep():
                    await self._freed.wait()

    def moved(self, layout: Layout, tasks: Iterable[Task]) -> None:
        """The pools have been changed, files included: these are layout and tasks now."""
        self.ledger.end(layout, tasks)
        for task in self.ledger.tasks.values():
            self._lifetimes.replace(task)
        self._notifier.write_all(self.ledger)
        self._wake()

    def save(self) -> None:
        """Write tasks and grants, so that an agent that starts without API server knows them."""
        self._save()

    def close(self) -> None:
        """Stop following the tasks; they go on."""
        self._lifetimes.close()

    def why_waiting(self, asked: Isolate, peer: Peer) -> str:
        """What a request that ran into its deadline was waiting for."""
        try:
            place = self.place(peer)
            pod = self.pods.get(place.pod)
            if place.pod and pod is None and self._needs_grant(asked.pool):
                return f"pod {place.pod} is not known yet: the API server cannot be reached or has not told"
            self.ledger.check(self._request_of(asked, self._procfs.process(peer.pid), place, pod))
        except (ProcessLookupError, Refused) as reason:
            return str(reason)
        return "a CPU list came free too late"

    async def _request(self, asked: Isolate, peer: Peer) -> Request:
        process = self._procfs.process(peer.pid)
        place = self.place(peer)
        pod = self.pods.get(place.pod)
        if pod is None and place.pod and self._needs_grant(asked.pool):
            pod = await self.pods.find(place.pod)
        return self._request_of(asked, process, place, pod)

    def _request_of(self, asked: Isolate, process: Process, place: PodContainer, pod: Pod | None) -> Request:
        if place.pod:
            # Tasks are booked under the name the cgroup has, which a static pod's uid on the API is not.
            known = pod or Pod(place.pod, "", place.pod, {})
            pod = msgspec.structs.replace(known, uid=place.pod)
        return Request(asked.pool, process, asked.cores, asked.socket, pod, place.container, _on_move(asked, pod))

    def _needs_grant(self, name: str) -> bool:
        pool = self.ledger.pool(name)
        return pool is not None and pool.exclusive and self.ledger.require_grant

    def _try(self, asked: Isolate, request: Request, peer: Peer) -> dict[str, str]:
        """Book, pin, record: undone in reverse when a step fails. Runs without interruption."""
        before = self.ledger.tasks.get(request.process)
        task = self.ledger.allocate(request)
        try:
            self._clear()
            if asked.affinity:
                affinity.pin(self._procfs, peer.pid, self.ledger.cpus_of(task))
            self._notifier.write_notice(self.ledger, task)
            self._save()
        except (affinity.AffinityError, state.StateError, ProcessLookupError):
            self.ledger.release(request.process)
            self._notifier.remove_notice(request.process)
            if before:
                self.ledger.restore(before)
            self._clear()
            raise
        if self._lifetimes.is_watched(request.process):
            self._lifetimes.replace(task)
            os.close(peer.pidfd)
        else:
            self._lifetimes.watch(task, peer.pidfd)
        if before and before != task:
            self._wake()
        self._changed()
        environment = self.ledger.environment(task)
        # A launcher that knows nothing of moves would not know either where the file is.
        if asked.on_move is not None and task.on_move.how is How.NOTIFY:
            environment["CMK_STATE"] = f"{DIRECTORY}/{name_of(task.process)}"
        return environment

    def _others_in_container(self, task: Task) -> list[CpuSet]:
        return [
            self.ledger.cpus_of(other)
            for other in self.ledger.tasks.values()
            if other.process != task.process and (other.pod, other.container) == (task.pod, task.container)
        ]

    def _on_released(self, process: Process) -> None:
        self.ledger.release(process)
        self._notifier.remove_notice(process)
        self._clear()
        self._wake()
        try:
            self._save()
        except state.StateError as error:
            # The file then names a process that is dead: whoever reads it drops the task.
            log.error("%s", error)
        self._changed()

    def _wake(self) -> None:
        self._freed.set()
        self._freed = asyncio.Event()

    def _save(self) -> None:
        pods = [pod for pod in self.pods.all.values() if pod.grants]
        state.write(self._file, TasksFile(self._boot, list(self.ledger.tasks.values()), pods), durable=False)


def _on_move(asked: Isolate, pod: Pod | None) -> OnMove:
    """What the command line says, else what the pod says; raises Refused."""
    text = asked.on_move or (pod.on_move if pod else "")
    try:
        return onmove.parse(text) if text else OnMove()
    except OnMoveError as error:
        where = "" if asked.on_move else f"annotation {onmove.ANNOTATION} of pod {pod}: "
        raise Refused(f"{where}{error}", final=True) from error


def load_tasks(path: Path, boot: str) -> TasksFile:
    """Read the task file; that of another boot is void, as its processes are. Raises StateError."""
    found = state.read(path, TasksFile)
    if found is None or found.boot != boot:
        return TasksFile(boot, [], [])
    return found
