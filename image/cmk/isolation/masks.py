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
from cmk.model.isolation_config import Thread


@contextmanager
def kept(procfs: Procfs, given: CpuSet) -> Iterator[list[Thread]]:
    """Threads may gain CPUs of ``given`` meanwhile; whatever else one has gained is taken away again.

    Yields a list that names them at the end, with what they had: the kernel gives a thread whose mask was set nothing back by itself.
    One to which nothing of its own is left is named too, and may go on elsewhere.
    """
    before = dict(_masks(procfs))
    moved: list[Thread] = []
    try:
        yield moved
    finally:
        for tid, now in _masks(procfs):
            had = before.get(tid, now)
            if now - had - given:
                keep = now & (had | given) or now
                try:
                    moved.append(Thread(tid, procfs.start_time(tid), had, keep))
                except ProcessLookupError:
                    continue
                _set(tid, keep)


def back(procfs: Procfs, moved: Iterable[Thread], available: CpuSet) -> list[Thread]:
    """Give threads what they had and is ``available`` again; returns those that go on waiting for some of it."""
    waiting = []
    for thread in moved:
        try:
            if procfs.start_time(thread.tid) != thread.start:
                continue
        except ProcessLookupError:
            continue
        if thread.before & available:
            _set(thread.tid, thread.before & available)
        if thread.before - available:
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
