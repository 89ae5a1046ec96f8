"""Threads of running processes moved from CPUs to CPUs: all of them, however many they make meanwhile, each by its own mask.

Why a pass that finds nobody to move is the end: whoever is born later was born by one who had been moved, and has his mask. That pass reads
back what the ones before have set, for the kernel silently intersects with the cpuset.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from cmk.host.affinity import AffinityError
from cmk.host.procfs import Procfs
from cmk.model import cpuset

# The mask that a thread is to have, out of its number and the one that it has.
Target = Callable[[int, Set[int]], Set[int]]


class Moved(NamedTuple):
    """A thread that was moved: where it might run before, and since."""

    pid: int
    tid: int
    before: Set[int]
    since: Set[int]


def move(procfs: Procfs, known: Iterable[int], pids: Callable[[], Iterable[int]], target: Target) -> list[Moved]:
    """Give every thread the mask that ``target`` says; returns those that changed.

    Processes that are ``known`` go first, for it may take a while to find all: ``pids`` lists those, anew for each further pass. Raises
    AffinityError, with every thread back where it was.
    """
    moved: dict[int, Moved] = {}
    try:
        _pass(procfs, known, target, moved)
        while _pass(procfs, list(pids()), target, moved):
            pass
    except AffinityError:
        undo(procfs, moved.values())
        raise
    return list(moved.values())


def undo(procfs: Procfs, moved: Iterable[Moved]) -> list[Moved]:
    """Put threads back, the last first; returns those that live and could not be. One that has another mask by now is another thread."""
    left = []
    for thread in reversed(list(moved)):
        try:
            if thread.tid in procfs.threads(thread.pid) and os.sched_getaffinity(thread.tid) == thread.since:
                os.sched_setaffinity(thread.tid, thread.before)
        except ProcessLookupError:
            continue
        except OSError:
            left.append(thread)
    return left


def _pass(procfs: Procfs, pids: Iterable[int], target: Target, moved: dict[int, Moved]) -> bool:
    """Look at every thread once; returns whether there was one to move."""
    mask_of, any_moved = os.sched_getaffinity, False
    for pid in pids:
        try:
            threads = procfs.threads(pid)
        except ProcessLookupError:
            continue
        for tid in threads:
            try:
                before = mask_of(tid)
                wanted = target(tid, before)
                if wanted != before:
                    any_moved = True
                    _set(Moved(pid, tid, before, wanted), moved)
            except ProcessLookupError:
                continue
    return any_moved


def _set(thread: Moved, moved: dict[int, Moved]) -> None:
    again = moved.get(thread.tid)
    # Noted before it is done: what fails half way is put back too.
    moved[thread.tid] = thread if again is None else again._replace(since=thread.since)
    try:
        os.sched_setaffinity(thread.tid, thread.since)
    except ProcessLookupError:
        raise
    except OSError as error:
        raise AffinityError(f"{_who(thread)}: CPUs {_text(thread.since)} refused by the kernel ({error.strerror})") from error
    if again is not None and (got := os.sched_getaffinity(thread.tid)) != thread.since:
        raise AffinityError(f"{_who(thread)}: of CPUs {_text(thread.since)} its cpuset allows only {_text(got)}")


def _who(thread: Moved) -> str:
    return f"process {thread.pid}, thread {thread.tid}"


def _text(cpus: Set[int]) -> str:
    return cpuset.kernel_list(frozenset(cpus))
