"""The host's own processes off exclusive cores: one by one, or by the cgroups beside kubepods. Undone from what was saved before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from cmk.host.procfs import Procfs
from cmk.isolation.originals import Originals, Saved
from cmk.model.cgroup_path import MixedCgroupsError
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import ON, LayerState, Thread

MOST_NAMES = 40


class HostProcesses:
    """The layer ``isolation.host=affinity``."""

    def __init__(self, procfs: Procfs, originals: Originals) -> None:
        self._procfs = procfs
        self._originals = originals

    def on(self, closed: CpuSet) -> LayerState:
        """Have every thread that is in no pod off ``closed`` CPUs, and on all others that it had. Those with no other CPU are bound there:
        kernel threads of the CPU.
        """
        saved = self._originals.saved
        known = {thread.tid: thread for thread in saved.threads if self._still_is(thread)}
        usual = _usual(saved)
        moves, bound = [], Counter[str]()
        for pid, tid, allowed in self._threads():
            thread = known.get(tid)
            before = thread.before if thread and thread.since == allowed else usual.get(allowed, allowed)
            if before - closed == allowed:
                continue
            try:
                if self._procfs.place(pid).pod:
                    continue
                if before - closed:
                    moves.append(Thread(tid, self._procfs.start_time(tid), before, before - closed))
                elif allowed & closed:
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
        left = [f"{name} ({count})" if count > 1 else name for name, count in sorted(bound.items())]
        more = [f"and {len(left) - MOST_NAMES} more"] if len(left) > MOST_NAMES else []
        return LayerState(ON, "", (*left[:MOST_NAMES], *more))

    def off(self) -> None:
        """Give threads back what they had; children of theirs, which were born with what we had left them, get the same."""
        saved = self._originals.saved
        if not saved.threads:
            return
        usual = _usual(saved)
        for thread in saved.threads:
            if self._still_is(thread):
                self._give(thread.tid, thread.since, thread.before)
        for _, tid, allowed in self._threads():
            if allowed in usual:
                self._give(tid, allowed, usual[allowed])
        self._originals.save_threads([])

    def _give(self, tid: int, since: CpuSet, before: CpuSet) -> None:
        try:
            if os.sched_getaffinity(tid) == since:
                os.sched_setaffinity(tid, before)
        except OSError:
            return  # ended, or a kernel thread that refused us before

    def _threads(self) -> Iterator[tuple[int, int, CpuSet]]:
        """Pid, tid and allowed CPUs of every thread."""
        for pid in self._procfs.pids():
            try:
                for tid in self._procfs.threads(pid):
                    yield pid, tid, frozenset(os.sched_getaffinity(tid))
            except ProcessLookupError:
                continue

    def _still_is(self, thread: Thread) -> bool:
        try:
            return self._procfs.start_time(thread.tid) == thread.start
        except ProcessLookupError:
            return False

    def _name(self, tid: int) -> str:
        try:
            return self._procfs.name(tid)
        except ProcessLookupError:
            return f"thread {tid}"


def _usual(saved: Saved) -> dict[CpuSet, CpuSet]:
    """What threads had that have this now, mostly: those born since have no entry of their own."""
    found: dict[CpuSet, CpuSet] = {}
    for (since, before), _ in Counter((thread.since, thread.before) for thread in saved.threads).most_common():
        found.setdefault(since, before)
    return found
