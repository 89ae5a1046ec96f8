"""Threads of running processes moved from CPUs to CPUs: all of them, however many they make meanwhile, each by its own mask.

Why a pass that finds nobody to move is the end: whoever is born later was born by one who had been moved, and has his mask.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from cmk.host.affinity import AffinityError
from cmk.host.procfs import Procfs
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.isolation import Thread

Target = Callable[[int, CpuSet], CpuSet]


def mask_of(tid: int) -> CpuSet:
    """Where a thread may run; raises ProcessLookupError."""
    return frozenset(os.sched_getaffinity(tid))


def move(procfs: Procfs, pids: Callable[[], Iterable[int]], target: Target) -> list[Thread]:
    """Give every thread the mask that ``target`` says for it and its own one; returns those that changed, with what they had.

    ``pids`` lists the processes, anew for each pass. Raises AffinityError, with every thread back where it was.
    """
    moved: list[Thread] = []
    try:
        while _pass(procfs, list(pids()), target, moved):
            pass
    except AffinityError:
        undo(procfs, moved)
        raise
    return moved


def undo(procfs: Procfs, moved: Iterable[Thread]) -> list[Thread]:
    """Put threads back, the last first; returns those that live and could not be."""
    left = []
    for thread in reversed(list(moved)):
        try:
            if procfs.start_time(thread.tid) == thread.start:
                os.sched_setaffinity(thread.tid, thread.before)
        except ProcessLookupError:
            continue
        except OSError:
            left.append(thread)
    return left


def _pass(procfs: Procfs, pids: Iterable[int], target: Target, moved: list[Thread]) -> bool:
    """Look at every thread once; returns whether there was one to move."""
    any_moved = False
    for pid in pids:
        try:
            threads = procfs.threads(pid)
        except ProcessLookupError:
            continue
        for tid in threads:
            try:
                any_moved |= _move_one(procfs, pid, tid, target, moved)
            except ProcessLookupError:
                continue
    return any_moved


def _move_one(procfs: Procfs, pid: int, tid: int, target: Target, moved: list[Thread]) -> bool:
    before = mask_of(tid)
    wanted = target(tid, before)
    if wanted == before:
        return False
    # Noted before it is done: what fails half way is put back too.
    moved.append(Thread(tid, procfs.start_time(tid), before, wanted))
    try:
        os.sched_setaffinity(tid, wanted)
    except ProcessLookupError:
        raise
    except OSError as error:
        raise AffinityError(
            f"process {pid}, thread {tid}: CPUs {cpuset.kernel_list(wanted)} refused by the kernel ({error.strerror})"
        ) from error
    got = mask_of(tid)
    if got != wanted:
        raise AffinityError(
            f"process {pid}, thread {tid}: of CPUs {cpuset.kernel_list(wanted)} its cpuset allows only {cpuset.kernel_list(got)}"
        )
    return True
