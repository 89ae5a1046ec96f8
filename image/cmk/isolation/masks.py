"""CPU masks of all threads, preserved over a change of cpusets: the kernel gives threads more CPUs back than it took.

When the CPUs of a cpuset change, cgroup v2 sets the mask of each thread in it anew. A thread that was never pinned then gets CPUs that it
did not have before: kswapd those of other NUMA nodes, every thread those that ``isolcpus`` isolates. A thread that has lost all of its CPUs
gets all others.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from cmk.host.affinity import mask_of
from cmk.host.procfs import Procfs
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import Thread


@contextmanager
def preserved(procfs: Procfs, allowed: CpuSet) -> Iterator[list[Thread]]:
    """Restore threads that gain CPUs other than ``allowed`` during the block.

    Yields a list that names these threads at its end, with their masks before: the kernel gives a thread whose mask was set nothing back
    by itself. A thread that has lost all of its CPUs is named too, and keeps the CPUs that the kernel gave it.
    """
    before = dict(_masks(procfs))
    changed: list[Thread] = []
    try:
        yield changed
    finally:
        for tid, now in _masks(procfs):
            old = before.get(tid, now)
            if now - old - allowed:
                new = now & (old | allowed) or now
                try:
                    changed.append(Thread(tid, procfs.start_time(tid), old, new))
                except ProcessLookupError:
                    continue
                _set(tid, new)


def restore(procfs: Procfs, threads: Iterable[Thread], available: CpuSet) -> list[Thread]:
    """Give threads back the CPUs they had before, as far as these are ``available``; returns the threads that still miss some."""
    incomplete = []
    for thread in threads:
        try:
            if procfs.start_time(thread.tid) != thread.start:
                continue
        except ProcessLookupError:
            continue
        if thread.before & available:
            _set(thread.tid, thread.before & available)
        if thread.before - available:
            incomplete.append(thread)
    return incomplete


def _masks(procfs: Procfs) -> Iterator[tuple[int, CpuSet]]:
    for pid in procfs.pids():
        try:
            threads = procfs.threads(pid)
        except ProcessLookupError:
            continue
        for tid in threads:
            if mask := mask_of(tid):
                yield tid, mask


def _set(tid: int, cpus: CpuSet) -> None:
    try:
        os.sched_setaffinity(tid, cpus)
    except OSError:
        return  # the thread has ended, or is a kernel thread bound to one CPU
