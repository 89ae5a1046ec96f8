"""Threads of running processes moved from CPUs to CPUs: all of them, however many they make meanwhile, each by its own mask.

Why a pass that finds nobody who is new is the end: whoever is born later was born by one who had been looked at, and has his mask. The
kernel gives thread numbers out in turn, so that none is used again within a pass or two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import NamedTuple

from cmk.host.affinity import AffinityError
from cmk.host.procfs import Procfs
from cmk.model import cpuset

# The mask that a thread is to have, out of its number and the one that it has.
Target = Callable[[int, Set[int]], Set[int]]
# Process → its threads.
Threads = Mapping[int, Iterable[int]]


class Moved(NamedTuple):
    """A thread that was moved: where it might run before, and since."""

    pid: int
    tid: int
    before: Set[int]
    since: Set[int]


def move(procfs: Procfs, known: Threads, pids: Callable[[], Iterable[int]], target: Target) -> list[Moved]:
    """Give every thread the mask that ``target`` says; returns those that changed.

    Threads that are ``known`` go first, for it takes a while to find all: ``pids`` lists the processes, anew for each further pass. Raises
    AffinityError, with every thread back where it was.
    """
    moved: list[Moved] = []
    seen: set[int] = set()
    try:
        _pass(known, target, seen, moved)
        while _pass({pid: _threads(procfs, pid) for pid in pids()}, target, seen, moved):
            pass
    except AffinityError:
        undo(procfs, moved)
        raise
    return moved


def undo(procfs: Procfs, moved: Iterable[Moved]) -> list[Moved]:
    """Put threads back, the last first; returns those that live and could not be."""
    left, ordered = [], list(moved)
    there = {pid: set(_threads(procfs, pid)) for pid in {thread.pid for thread in ordered}}
    for thread in reversed(ordered):
        try:
            if thread.tid in there[thread.pid]:
                os.sched_setaffinity(thread.tid, thread.before)
        except ProcessLookupError:
            continue
        except OSError:
            left.append(thread)
    return left


def _threads(procfs: Procfs, pid: int) -> list[int]:
    try:
        return procfs.threads(pid)
    except ProcessLookupError:
        return []


def _pass(threads: Threads, target: Target, seen: set[int], moved: list[Moved]) -> bool:
    """Look at every thread that has not been ``seen``; returns whether there was one."""
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
                # Noted before it is done: what fails half way is put back too.
                moved.append(Moved(pid, tid, before, wanted))
                put(tid, wanted)
                got = get(tid)
            except ProcessLookupError:
                continue
            except OSError as error:
                raise AffinityError(f"{_who(pid, tid)}: CPUs {_text(wanted)} refused by the kernel ({error.strerror})") from error
            if got != wanted:  # the kernel silently intersects with the cpuset
                raise AffinityError(f"{_who(pid, tid)}: of CPUs {_text(wanted)} its cpuset allows only {_text(got)}")
    return any_new


def _who(pid: int, tid: int) -> str:
    return f"process {pid}, thread {tid}"


def _text(cpus: Set[int]) -> str:
    return cpuset.kernel_list(frozenset(cpus))
