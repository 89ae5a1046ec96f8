"""The CPU masks of all threads of running processes, set one by one, including threads that are created meanwhile.

Why a pass without a new thread is the last one: a thread that is created later has a creator that was set already, and inherits its mask.
The kernel hands out thread ids in ascending order, so that none is used again within a pass or two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import NamedTuple

from cmk.host.affinity import AffinityError
from cmk.host.procfs import Procfs
from cmk.model import cpuset

# Thread id and current mask → the mask that the thread is to have.
Target = Callable[[int, Set[int]], Set[int]]
# Pid → thread ids.
Threads = Mapping[int, Iterable[int]]


class MovedThread(NamedTuple):
    """A thread whose mask was changed, and its masks ``before`` and ``after``."""

    pid: int
    tid: int
    before: Set[int]
    after: Set[int]


def move(procfs: Procfs, known: Threads, pids: Callable[[], Iterable[int]], target: Target) -> list[MovedThread]:
    """Set every thread's mask to what ``target`` returns for it; returns the threads that changed.

    Threads in ``known`` are set first, because finding all takes a while: ``pids`` lists the processes anew for each further pass. Raises
    AffinityError when the kernel refuses a mask, after it has restored the masks of all threads.
    """
    moved: list[MovedThread] = []
    seen: set[int] = set()
    try:
        _pass(known, target, seen, moved)
        while _pass({pid: _threads(procfs, pid) for pid in pids()}, target, seen, moved):
            pass
    except AffinityError:
        undo(procfs, moved)
        raise
    return moved


def undo(procfs: Procfs, moved: Iterable[MovedThread]) -> list[MovedThread]:
    """Restore the masks of threads, the last first; returns the living threads whose mask the kernel refused."""
    refused, ordered = [], list(moved)
    alive = {pid: set(_threads(procfs, pid)) for pid in {thread.pid for thread in ordered}}
    for thread in reversed(ordered):
        try:
            if thread.tid in alive[thread.pid]:
                os.sched_setaffinity(thread.tid, thread.before)
        except ProcessLookupError:
            continue
        except OSError:
            refused.append(thread)
    return refused


def _threads(procfs: Procfs, pid: int) -> list[int]:
    try:
        return procfs.threads(pid)
    except ProcessLookupError:
        return []


def _pass(threads: Threads, target: Target, seen: set[int], moved: list[MovedThread]) -> bool:
    """Set the mask of every thread that is not in ``seen``; returns whether there was one."""
    get, put, any_new = os.sched_getaffinity, os.sched_setaffinity, False
    for pid, tids in threads.items():
        for tid in tids:
            if tid in seen:
                continue
            seen.add(tid)
            any_new = True
            try:
                before = get(tid)
                wanted = target(tid, before)
                if wanted == before:
                    continue
                # Recorded before it is set: a thread whose mask comes out different is restored too.
                moved.append(MovedThread(pid, tid, before, wanted))
                put(tid, wanted)
                got = get(tid)
            except ProcessLookupError:
                continue
            except OSError as error:
                raise AffinityError(
                    f"{_name(pid, tid)}: CPUs {_text(wanted)} refused by the kernel ({error.strerror})"
                ) from error
            if got != wanted:  # the kernel silently intersects with the cpuset
                raise AffinityError(f"{_name(pid, tid)}: of CPUs {_text(wanted)} its cpuset allows only {_text(got)}")
    return any_new


def _name(pid: int, tid: int) -> str:
    return f"process {pid}, thread {tid}"


def _text(cpus: Set[int]) -> str:
    return cpuset.kernel_list(frozenset(cpus))
