"""Affinities of all threads over a change of cpusets: the kernel gives back more than it took.

When the CPUs of a cpuset change, cgroup v2 sets the mask of each thread in it anew, and one that nobody has pinned gets CPUs that it
never had: those that ``isolcpus`` isolates, for instance, from which nothing would move it off again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from cmk.host.procfs import Procfs
from cmk.model.cpuset import CpuSet


@contextmanager
def kept(procfs: Procfs, given: CpuSet) -> Iterator[None]:
    """Threads may gain CPUs of ``given`` meanwhile; whatever else one has gained is taken away again."""
    before = dict(_masks(procfs))
    try:
        yield
    finally:
        for tid, now in _masks(procfs):
            extra = now - before.get(tid, now) - given
            if extra:
                _set(tid, now - extra)


def _masks(procfs: Procfs) -> Iterator[tuple[int, CpuSet]]:
    for pid in procfs.pids():
        try:
            for tid in procfs.threads(pid):
                yield tid, frozenset(os.sched_getaffinity(tid))
        except ProcessLookupError:
            continue


def _set(tid: int, cpus: CpuSet) -> None:
    try:
        os.sched_setaffinity(tid, cpus)
    except OSError:
        return  # ended, or a kernel thread of one CPU
