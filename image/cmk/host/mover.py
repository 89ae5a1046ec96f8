"""The CPU masks of all threads of running processes, set one by one, including threads that are created meanwhile.

Why a pass that sets no mask is the last one: a thread that it does not see has a creator that had its mask already, and inherits it.
The kernel hands out thread ids in ascending order, so that none is used again within a pass or two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from typing import NamedTuple

from cmk.host.affinity import AffinityError, mask_of, try_to_set
from cmk.host.passes import passes
from cmk.host.pauses import Pausing, own_time
from cmk.host.procfs import Procfs
from cmk.model import cpuset

SECONDS = 1.0
# Threads of one process that are set before others have their turn.
_SLICE = 200

# Thread id and current mask → the mask that the thread is to have.
Target = Callable[[int, Set[int]], Set[int]]
# Pid → thread ids.
Threads = Mapping[int, Iterable[int]]


class Pids(NamedTuple):
    """Pids of processes. ``is_complete`` is False if there may be more, because processes end before they are looked at."""

    pids: list[int]
    is_complete: bool


class MovedThread(NamedTuple):
    """A thread whose mask was changed, and its masks ``before`` and ``after``."""

    pid: int
    tid: int
    before: Set[int]
    after: Set[int]


def move(
    procfs: Procfs,
    known: Threads,
    pids: Callable[[], Pausing[Pids]],
    target: Target,
    *,
    keep: bool = False,
    clock: Callable[[], float] = own_time,
) -> Pausing[list[MovedThread]]:
    """Set every thread's mask to what ``target`` returns for it; returns the threads that changed.

    Threads in ``known`` are set first, because finding all takes a while: ``pids`` lists the processes anew for each further pass. Raises
    AffinityError when the kernel refuses a mask, after it has restored the masks of all threads; also when processes or threads are started
    faster than they can be listed or set, and then with ``keep`` those that were set stay so.
    """
    moved: list[MovedThread] = []
    seen: set[int] = set()
    try:
        yield from _pass(known, target, seen, moved)
        for _ in passes(SECONDS, clock):
            listed = yield from pids()
            threads: dict[int, list[int]] = {}
            for pid in listed.pids:
                threads[pid] = _threads(procfs, pid)
                yield
            late = yield from _pass(threads, target, seen, moved)
            if late is None and listed.is_complete:
                _give_back_strangers(threads, moved)
                return moved
    except AffinityError:
        undo(procfs, moved)
        raise
    if not keep:
        undo(procfs, moved)
    elif late is None:
        _give_back_strangers(threads, moved)
    who = f"process {late}, or one that it belongs with," if late else "a process that ends before it can be looked at"
    raise AffinityError(
        f"{who} keeps starting processes or threads, so that not all could be moved: end it, or wait until it starts fewer"
    )


def _give_back_strangers(threads: Threads, moved: Iterable[MovedThread]) -> None:
    """Restore the masks of threads of others that have the ids of ours, which had ended. ``threads`` are all of ours after the move."""
    ours = {(pid, tid) for pid, tids in threads.items() for tid in tids}
    for thread in moved:
        if (thread.pid, thread.tid) not in ours and mask_of(thread.tid) == thread.after:
            try_to_set(thread.tid, thread.before)


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


def _pass(threads: Threads, target: Target, seen: set[int], moved: list[MovedThread]) -> Pausing[int | None]:
    """Set the mask of every thread that is not in ``seen``.

    Returns a process of which a thread was set, or ended and may have started another before; None when there is none.
    """
    get, put, late = os.sched_getaffinity, os.sched_setaffinity, None
    for pid, tids in threads.items():
        yield
        for tid in tids:
            if tid in seen:
                continue
            seen.add(tid)
            if len(seen) % _SLICE == 0:
                yield
            try:
                before = get(tid)
                wanted = target(tid, before)
                if wanted == before:
                    continue
                late = pid
                # Recorded before it is set: a thread whose mask comes out different is restored too.
                moved.append(MovedThread(pid, tid, before, wanted))
                put(tid, wanted)
                got = get(tid)
            except ProcessLookupError:
                late = pid
            except OSError as error:
                raise AffinityError(
                    f"{_name(pid, tid)}: CPUs {_text(wanted)} refused by the kernel ({error.strerror})"
                ) from error
            else:
                if got < wanted:  # the kernel silently intersects with the cpuset
                    raise AffinityError(f"{_name(pid, tid)}: of CPUs {_text(wanted)} its cpuset allows only {_text(got)}")
    return late


def _name(pid: int, tid: int) -> str:
    return f"process {pid}, thread {tid}"


def _text(cpus: Set[int]) -> str:
    return cpuset.kernel_list(frozenset(cpus))
