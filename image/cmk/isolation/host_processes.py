"""The layer ``isolation.host=affinity``: every thread outside pods leaves exclusive cores, by its own CPU mask."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from cmk.host.affinity import mask_of
from cmk.host.procfs import Procfs
from cmk.isolation.originals import Originals, Saved
from cmk.model.cgroup_path import MixedCgroupsError
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import ON, LayerState, Thread

MOST_NAMES = 40


class ProcessLayer:
    """Masks of the host's threads, narrowed and restored."""

    def __init__(self, procfs: Procfs, originals: Originals) -> None:
        self._procfs = procfs
        self._originals = originals

    def isolate(self, closed: CpuSet) -> LayerState:
        """Move every thread outside pods off ``closed`` CPUs, onto all others of its original ones. Raises StateError.

        A thread with no other CPU stays (kernel threads of one CPU do): ``left`` of the state names it.
        """
        saved = self._originals.saved
        known = {thread.tid: thread for thread in saved.threads if self._is_same(thread)}
        usual = _usual_originals(saved)
        moves, bound = [], Counter[str]()
        for pid, tid, mask in self._threads():
            thread = known.get(tid)
            before = thread.before if thread and thread.since == mask else usual.get(mask, mask)
            if before - closed == mask:
                continue
            try:
                if self._procfs.pod_container(pid).pod:
                    continue
                if before - closed:
                    moves.append(Thread(tid, self._procfs.start_time(tid), before, before - closed))
                elif mask & closed:
                    bound[self._procfs.name(tid)] += 1
            except (ProcessLookupError, MixedCgroupsError):
                continue
        if moves:
            self._originals.save_threads(list({**known, **{thread.tid: thread for thread in moves}}.values()))
        for thread in moves:
            try:
                os.sched_setaffinity(thread.tid, thread.since)
            except ProcessLookupError:
                continue
            except OSError as error:
                bound[f"{self._name(thread.tid)}: {error.strerror}"] += 1
        return LayerState(ON, "", _names_of(bound))

    def restore(self) -> None:
        """Give threads their original masks back. Raises StateError.

        Their children, which were born with the narrowed masks, get the same.
        """
        saved = self._originals.saved
        if not saved.threads:
            return
        usual = _usual_originals(saved)
        for thread in saved.threads:
            if self._is_same(thread):
                self._replace_mask(thread.tid, thread.since, thread.before)
        for _, tid, mask in self._threads():
            if mask in usual:
                self._replace_mask(tid, mask, usual[mask])
        self._originals.save_threads([])

    def _replace_mask(self, tid: int, old: CpuSet, new: CpuSet) -> None:
        try:
            if os.sched_getaffinity(tid) == old:
                os.sched_setaffinity(tid, new)
        except OSError:
            return  # the thread has ended, or is a kernel thread that refused to be moved before

    def _threads(self) -> Iterator[tuple[int, int, CpuSet]]:
        """Pid, tid and mask of every thread."""
        for pid in self._procfs.pids():
            try:
                threads = self._procfs.threads(pid)
            except ProcessLookupError:
                continue
            for tid in threads:
                if mask := mask_of(tid):
                    yield pid, tid, mask

    def _is_same(self, thread: Thread) -> bool:
        """Whether the tid still belongs to the thread that was saved."""
        try:
            return self._procfs.start_time(thread.tid) == thread.start
        except ProcessLookupError:
            return False

    def _name(self, tid: int) -> str:
        try:
            return self._procfs.name(tid)
        except ProcessLookupError:
            return f"thread {tid}"


def _usual_originals(saved: Saved) -> dict[CpuSet, CpuSet]:
    """Map each current mask to its most common original, for threads created after the snapshot."""
    originals: dict[CpuSet, CpuSet] = {}
    for (since, before), _ in Counter((thread.since, thread.before) for thread in saved.threads).most_common():
        originals.setdefault(since, before)
    return originals


def _names_of(bound: Counter[str]) -> tuple[str, ...]:
    """Names of threads with their counts, the first MOST_NAMES of them."""
    names = [f"{name} ({count})" if count > 1 else name for name, count in sorted(bound.items())]
    more = [f"and {len(names) - MOST_NAMES} more"] if len(names) > MOST_NAMES else []
    return (*names[:MOST_NAMES], *more)
