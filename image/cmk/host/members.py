"""Processes that keep a task alive after its first process ended: same container, confined to its lists and to no other task's."""

from __future__ import annotations

import os
from collections.abc import Iterable

from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.tasks import Process

_SCANS = 3


def find_members(procfs: Procfs, place: PodContainer, cpus: CpuSet, others: Iterable[CpuSet]) -> list[Process]:
    """Live processes at ``place`` with a thread whose affinity lies within ``cpus`` and within none of ``others``.

    Outside pods there is no container to tell a task's processes from the host's own, so there are none.
    """
    if not place.pod:
        return []
    other_sets = list(others)
    for _ in range(_SCANS):
        found, vanished = _scan(procfs, place, cpus, other_sets)
        # A process that ended under our eyes may have left a child behind us in the directory: look again.
        if found or not vanished:
            return found
    return []


def descendants(procfs: Procfs, process: Process) -> list[Process]:
    """Live processes that a process has started, and those that they have; one whose parent ended before it is found no more."""
    parents: dict[int, list[int]] = {}
    for pid in procfs.pids():
        try:
            parents.setdefault(procfs.parent(pid), []).append(pid)
        except ProcessLookupError:
            continue
    found, todo = [], [process.pid] if procfs.is_alive(process) else []
    while todo:
        for pid in parents.get(todo.pop(), []):
            try:
                found.append(procfs.process(pid))
                todo.append(pid)
            except ProcessLookupError:
                continue
    return found


def processes_beside(procfs: Procfs, pids: Iterable[int], owner: int, cpus: CpuSet) -> list[tuple[int, str]]:
    """Pid and name of those that may run on ``cpus`` and elsewhere: the owner's own children are confined as it is."""
    found = []
    for pid in sorted(set(pids) - {owner}):
        try:
            allowed = os.sched_getaffinity(pid)
            if allowed & cpus and not allowed <= cpus:
                found.append((pid, procfs.name(pid)))
        except ProcessLookupError:
            continue
    return found


def _scan(procfs: Procfs, place: PodContainer, cpus: CpuSet, others: list[CpuSet]) -> tuple[list[Process], bool]:
    found, vanished = [], False
    for pid in procfs.pids():
        try:
            if _is_within(procfs, pid, cpus, others) and procfs.place(pid) == place:
                process = procfs.process(pid)
                if procfs.is_alive(process):
                    found.append(process)
        except ProcessLookupError:
            vanished = True
        except MixedCgroupsError:
            continue
    return found, vanished


def _is_within(procfs: Procfs, pid: int, cpus: CpuSet, others: list[CpuSet]) -> bool:
    # A thread on the core counts wherever the first thread of its process runs (a DPDK main lcore sits elsewhere).
    for tid in procfs.threads(pid):
        mask = os.sched_getaffinity(tid)
        if mask <= cpus and not any(mask <= other for other in others):
            return True
    return False
