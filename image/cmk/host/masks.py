"""Affinities of all threads over a change of cpusets: the kernel gives back more than it took.

When the CPUs of a cpuset change, cgroup v2 sets the mask of each thread in it anew, and one that nobody has pinned gets CPUs that it never
had: kswapd those of other NUMA nodes, everybody those that ``isolcpus`` isolates. One that has lost all of its CPUs gets every other.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cmk.host.procfs import Procfs
from cmk.model.cpuset import CpuSet
from cmk.model.isolation import Thread


@contextmanager
def kept(procfs: Procfs, given: CpuSet) -> Iterator[list[Thread]]:
    """Threads may gain CPUs of ``given`` meanwhile; whatever else one has gained is taken away again.

    Yields a list that names, at the end, those to whom nothing of their own is left.
    """
    before = dict(_masks(procfs))
    displaced: list[Thread] = []
    try:
        yield displaced
    finally:
        for tid, now in _masks(procfs):
            had = before.get(tid, now)
            if had & now:
                if now - had - given:
                    _set(tid, now & (had | given))
            else:
                try:
                    displaced.append(Thread(tid, procfs.start_time(tid), had, now))
                except ProcessLookupError:
                    continue


def back(procfs: Procfs, displaced: Iterable[Thread], available: CpuSet) -> list[Thread]:
    """Put threads back whose CPUs are ``available`` again; returns those that go on waiting."""
    waiting = []
    for thread in displaced:
        try:
            if procfs.start_time(thread.tid) != thread.start:
                continue
        except ProcessLookupError:
            continue
        if thread.before & available:
            _set(thread.tid, thread.before)
        else:
            waiting.append(thread)
    return waiting


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
