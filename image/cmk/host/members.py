"""The processes of a task beside its first one: those of its container that are confined to its CPUs. They keep the task alive."""

from __future__ import annotations

import os
from collections.abc import Iterable

from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.tasks import Process

_SCANS = 3


def find_members(procfs: Procfs, container: PodContainer, cpus: CpuSet, others: Iterable[CpuSet]) -> list[Process]:
    """Live processes in ``container`` with a thread whose affinity lies within ``cpus`` and within none of ``others``.

    Outside pods, no container separates a task's processes from the host's: the result is empty.
    """
    if not container.pod:
        return []
    other_sets = list(others)
    for _ in range(_SCANS):
        members, vanished = _scan(procfs, container, cpus, other_sets)
        # A process that ended during the scan may have left a child in a part of the directory that was read already: scan again.
        if members or not vanished:
            return members
    return []


def descendants(procfs: Procfs, process: Process) -> list[Process]:
    """Live children of a process, their children, and so on; a child whose parent ended before it is not among them."""
    parents: dict[int, list[int]] = {}
    for pid in procfs.pids():
        try:
            parents.setdefault(procfs.parent(pid), []).append(pid)
        except ProcessLookupError:
            continue
    processes, todo = [], [process.pid] if procfs.is_alive(process) else []
    while todo:
        for pid in parents.get(todo.pop(), []):
            try:
                processes.append(procfs.process(pid))
                todo.append(pid)
            except ProcessLookupError:
                continue
    return processes


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


def _scan(procfs: Procfs, container: PodContainer, cpus: CpuSet, others: list[CpuSet]) -> tuple[list[Process], bool]:
    members, vanished = [], False
    for pid in procfs.pids():
        try:
            if _is_within(procfs, pid, cpus, others) and procfs.pod_container(pid) == container:
                process = procfs.process(pid)
                if procfs.is_alive(process):
                    members.append(process)
        except ProcessLookupError:
            vanished = True
        except MixedCgroupsError:
            continue
    return members, vanished


def _is_within(procfs: Procfs, pid: int, cpus: CpuSet, others: list[CpuSet]) -> bool:
    # Any thread counts, not only the first one of the process: the main lcore of DPDK runs on another core.
    for tid in procfs.threads(pid):
        mask = os.sched_getaffinity(tid)
        if mask <= cpus and not any(mask <= other for other in others):
            return True
    return False
