"""The processes of a task beside its first one: those of its container that are confined to its CPUs. They keep the task alive.

Outside pods, where all processes are in the same container as it were, those count that are the task's kin, and on exclusive CPUs alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence, Set
from typing import NamedTuple

from cmk.host.affinity import mask_of
from cmk.host.kin import Kin
from cmk.host.passes import passes
from cmk.host.pauses import Pausing, own_time, without_pause
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.tasks import Process

SECONDS = 0.03


class Search(NamedTuple):
    """Members that were found. ``is_certain`` is False if there may be more: processes kept ending before they were looked at."""

    members: list[Process]
    is_certain: bool


def search_members(
    procfs: Procfs,
    container: PodContainer,
    cpus: CpuSet,
    others: Sequence[CpuSet],
    kin: Kin | None = None,
    clock: Callable[[], float] = own_time,
) -> Search:
    """The same as ``search_with_pauses``, without a pause."""
    return without_pause(search_with_pauses(procfs, container, cpus, others, kin, clock))


def search_with_pauses(
    procfs: Procfs,
    container: PodContainer,
    cpus: CpuSet,
    others: Sequence[CpuSet],
    kin: Kin | None = None,
    clock: Callable[[], float] = own_time,
) -> Pausing[Search]:
    """Live processes in ``container`` with a thread whose affinity lies within ``cpus`` and within none of ``others``.

    Outside pods, of these those of ``kin``; without it, the result is empty.
    """
    if not (container.pod or kin) or any(cpus <= other for other in others):
        return Search([], is_certain=True)  # without a look at every process: hundreds of tasks of a shared list may end at once
    scan = _Scan(procfs, container, cpus, others, kin)
    for _ in passes(SECONDS, clock):
        # A process that ended during the scan may have left a child that was not listed yet: look again, at those that are new.
        if (yield from scan.look_at_new()):
            return Search(scan.members, is_certain=True)
    return Search(scan.members, is_certain=False)


def descendants(procfs: Procfs, processes: Iterable[Process], excluded: Set[int]) -> Pausing[list[Process]]:
    """Live children of processes, their children, and so on, without those with ``excluded`` pids and what only these have started.

    A child whose parent ended before it is not among them.
    """
    children: dict[int, list[Process]] = {}
    seen: set[Process] = set()
    for pid in procfs.pids():
        yield
        try:
            parent, process = procfs.child(pid)
        except ProcessLookupError:
            continue
        seen.add(process)
        children.setdefault(parent, []).append(process)
    found, todo = [], [process.pid for process in processes if process in seen]
    while todo:
        for process in children.pop(todo.pop(), []):
            if process.pid not in excluded:
                found.append(process)
                todo.append(process.pid)
    return found


def processes_beside(procfs: Procfs, pids: Iterable[int], owner: int, cpus: CpuSet) -> list[tuple[int, str]]:
    """Pid and name of those of ``pids`` that may run on ``cpus`` and on others, which children of ``owner`` may not."""
    beside = []
    for pid in sorted(set(pids) - {owner}):
        try:
            allowed = os.sched_getaffinity(pid)
            if allowed & cpus and not allowed <= cpus:
                beside.append((pid, procfs.name(pid)))
        except ProcessLookupError:
            continue
    return beside


class _Scan:
    """Passes over the processes of a container, each of which is looked at once."""

    def __init__(self, procfs: Procfs, container: PodContainer, cpus: CpuSet, others: Sequence[CpuSet], kin: Kin | None) -> None:
        self._procfs = procfs
        self._container = container
        self._cpus = cpus
        self._others = others
        self._kin = kin
        self._seen: set[int] = set()
        # Processes that have ended and are waited for: what they had started before is listed once they have been seen so.
        self._remains: set[int] = set()
        self.members: list[Process] = []

    def look_at_new(self) -> Pausing[bool]:
        """Look at processes that were not looked at before; returns whether none ended that may have left others."""
        is_quiet = True
        for pid in self._procfs.pids_in(self._container):
            if pid in self._seen:
                continue
            yield
            try:
                if self._is_settled(pid):
                    self._seen.add(pid)
                else:
                    is_quiet = False
            except ProcessLookupError:
                is_quiet = False
            except MixedCgroupsError:
                self._seen.add(pid)
        return is_quiet

    def _is_settled(self, pid: int) -> bool:
        """Add a process to the members if it is one; False when it or threads of it ended first, which may have started others."""
        # Any thread counts, not only the first one of the process: the main lcore of DPDK runs on another core.
        has_ended = is_new = False
        for tid in self._procfs.threads(pid):
            mask = mask_of(tid)
            if mask is None:
                has_ended = True
            elif self._is_wanted(mask):
                process = self._procfs.process(pid)
                container = self._procfs.pod_container(pid)
                is_own = container == self._container
                # Of a process that has ended there is its first thread, until its parent waits for it; cgroup v1 says that it is in no pod.
                if tid == pid and (is_own or not container.pod) and not self._procfs.first_thread_runs(pid):
                    is_new = pid not in self._remains
                    self._remains.add(pid)
                else:
                    if is_own and (container.pod or (self._kin and self._kin.includes(pid))):
                        if not self._is_there(pid, tid):
                            return False  # it has ended, and the process that has its pid now is another one
                        self.members.append(process)
                    return True
        if is_new:
            return False
        return not has_ended or self._procfs.pod_container(pid) != self._container

    def _is_there(self, pid: int, tid: int) -> bool:
        """Whether a thread of a process still has a mask like those that are searched for."""
        mask = mask_of(tid)
        return mask is not None and self._is_wanted(mask) and self._procfs.has_thread(pid, tid)

    def _is_wanted(self, mask: CpuSet) -> bool:
        return mask <= self._cpus and not any(mask <= other for other in self._others)
