"""Processes that CPU masks tell: those in pods with a thread on some CPUs alone, as ``cmk isolate`` leaves it, and all that it forks."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.tasks import Process

NOTHING: CpuSet = frozenset()


class Confined(msgspec.Struct, frozen=True):
    """A process in a container. ``inside``: the CPUs of all its threads' masks that lie within the CPUs asked for; ``astride``: those of
    masks that have CPUs within and without.
    """

    process: Process
    container: PodContainer
    inside: CpuSet
    astride: CpuSet


def confined_processes(procfs: Procfs, cpus: CpuSet, ordinary: CpuSet) -> list[Confined]:
    """Processes in pods with a thread on some of ``cpus`` that may not run on all of ``ordinary``, the oldest first."""
    found = []
    for pid in procfs.pids():
        try:
            masks = [mask for mask in _masks(procfs, pid) if mask & cpus and (mask <= cpus or not mask >= ordinary)]
            if not masks or not (container := procfs.pod_container(pid)).pod:
                continue
            process = procfs.process(pid)
            if procfs.is_alive(process):
                inside, astride = (NOTHING.union(*(mask for mask in masks if (mask <= cpus) == is_in)) for is_in in (True, False))
                found.append(Confined(process, container, inside, astride))
        except (ProcessLookupError, MixedCgroupsError):
            continue  # ended, or in no container that a runtime makes
    return sorted(found, key=lambda item: (item.process.start, item.process.pid))


def _masks(procfs: Procfs, pid: int) -> Iterable[CpuSet]:
    for tid in procfs.threads(pid):
        try:
            yield frozenset(os.sched_getaffinity(tid))
        except ProcessLookupError:
            continue
