"""CPU affinity of whole processes: set for every thread and read back, because the kernel silently intersects it with the cpuset.

Why a pass that sets no mask is the last one: a thread that it does not see has a creator that had the mask already, and inherits it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Set

from cmk.host.passes import passes
from cmk.host.pauses import own_time
from cmk.host.procfs import Procfs
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError

SECONDS = 0.03
# More than for a pin: after an undo that was not completed, the process holds CPUs until it ends.
UNDO_SECONDS = 0.06


class AffinityError(CmkError):
    """The kernel refused an affinity or set another one; the text says which."""


def allowed(cpus: CpuSet) -> CpuSet:
    """Those of ``cpus`` that the cpuset of this very process allows, whatever its affinity is now."""
    answer: list[CpuSet] = []

    def ask() -> None:
        # The kernel intersects with the cpuset; the affinity of a separate thread is no other thread's.
        try:
            os.sched_setaffinity(0, cpus)
        except OSError:
            answer.append(frozenset())  # EINVAL: the cpuset allows none of them
        else:
            answer.append(frozenset(os.sched_getaffinity(0)))

    thread = threading.Thread(target=ask, name="cpuset")
    thread.start()
    thread.join()
    return answer[0]


def mask_of(tid: int) -> CpuSet | None:
    """The mask of a thread; None when it has ended."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError:
        return None


def try_to_set(tid: int, cpus: Set[int]) -> bool:
    """Set the mask of a thread; False if it has ended, or its cpuset has none of the CPUs."""
    try:
        os.sched_setaffinity(tid, cpus)
    except OSError:
        return False
    return True


class Pinning:
    """The masks of one process's threads: set by ``pin``, restored by ``undo``.

    ``has_ended`` tells, by something other than the pid, that the process has ended, so that its pid may be another's.
    """

    def __init__(
        self, procfs: Procfs, pid: int, cpus: CpuSet, has_ended: Callable[[], bool], clock: Callable[[], float] = own_time
    ) -> None:
        self._procfs = procfs
        self._pid = pid
        self._cpus = cpus
        self._has_ended = has_ended
        self._clock = clock
        # By thread id: the masks before and after.
        self._masks: dict[int, tuple[CpuSet, CpuSet]] = {}

    @property
    def has_set(self) -> bool:
        """Whether a mask was changed, and so others may have inherited it, even if it is restored by now."""
        return any(before != after for before, after in self._masks.values())

    def pin(self) -> None:
        """Set the affinity of every thread and read it back. If this raises, some masks may have been set: then call ``undo``.

        Raises AffinityError when the kernel refuses a mask, or the process starts threads faster than they can be set;
        ProcessLookupError when it has ended, even if another has its pid by now.
        """
        self._check_alive()
        listed = self._pass_until_none_is_set()
        for tid in self._masks.keys() - listed:
            if not self._procfs.has_thread(self._pid, tid):
                self._restore(tid)  # the thread has ended: if its id is in use, another process's thread was set
        self._check_alive()

    def undo(self) -> bool:
        """Give all threads the masks back that they had, and to those that were started meanwhile the process's.

        A thread whose mask is not the one that was set keeps it. False when threads are started too fast: some may then still be on the
        CPUs of the pin, which nobody else may get until the process has ended.
        """
        usual = self._usual_mask()
        if usual is None:
            return True
        seen: set[int] = set()
        for _ in passes(UNDO_SECONDS, self._clock):
            is_last = True
            for tid in self._threads():
                if tid not in seen:
                    is_last = self._give_back(tid, seen, usual) and is_last
            if is_last:
                break
        for tid in self._masks.keys() - seen:
            self._restore(tid)
        return is_last

    def _pass_until_none_is_set(self) -> set[int]:
        """Pass over the threads until none had to be set; returns the threads of the last pass."""
        seen: set[int] = set()
        for number in passes(SECONDS, self._clock):
            is_last, threads = True, self._procfs.threads(self._pid)
            for tid in threads:
                if tid not in seen:
                    is_last = self._set(tid, seen, is_first=number == 0) and is_last
            if is_last:
                return set(threads)
        raise AffinityError(
            f"process {self._pid} keeps starting threads, so that not all can be set to CPUs {cpuset.kernel_list(self._cpus)}: ask before "
            "it starts them, as a launcher does"
        )

    def _set(self, tid: int, seen: set[int], *, is_first: bool) -> bool:
        """Set a thread's mask unless it has it; False if it was set, or has ended and may have started another with its old mask."""
        before = mask_of(tid)
        self._check_alive()
        if before is None:
            return False
        seen.add(tid)
        # In later passes: a thread whose creator was set, and has narrowed itself since.
        if before == self._cpus or (before < self._cpus and not is_first):
            if is_first:
                self._masks[tid] = before, before
            return True
        self._masks[tid] = before, self._cpus
        try:
            os.sched_setaffinity(tid, self._cpus)
            got = frozenset(os.sched_getaffinity(tid))
        except ProcessLookupError:
            return False  # a thread that ended needs no CPU; the end of the process shows elsewhere
        except OSError as error:
            raise AffinityError(
                f"CPUs {cpuset.kernel_list(self._cpus)} refused by the kernel ({error.strerror}): outside the container's cpuset?"
            ) from error
        if (
            got <= self._cpus
        ):  # if not, it is no answer to what was set: another thread has the id by now, or this one has set itself
            self._masks[tid] = before, got
        if got != self._cpus:
            raise AffinityError(
                f"CPUs {cpuset.kernel_list(self._cpus)} asked, the container's cpuset allows only {cpuset.kernel_list(got)} of them"
            )
        return False

    def _usual_mask(self) -> CpuSet | None:
        """What a thread gets back whose mask before is not known; None if no mask was set."""
        changed = [before for before, after in self._masks.values() if before != after]
        if not changed:
            return None
        return self._masks.get(self._pid, (changed[0],))[0]

    def _give_back(self, tid: int, seen: set[int], usual: CpuSet) -> bool:
        """Restore a thread's mask; False if it was set, or the thread has ended and may have started another with the new mask."""
        now = mask_of(tid)
        if now is None:
            return False
        seen.add(tid)
        if tid in self._masks:
            return not self._restore(tid)
        if not now <= self._cpus or self._has_ended():
            return True
        return not try_to_set(tid, usual)

    def _restore(self, tid: int) -> bool:
        before, after = self._masks[tid]
        if before == after or mask_of(tid) != after:
            return False
        return try_to_set(tid, before)

    def _threads(self) -> list[int]:
        try:
            return self._procfs.threads(self._pid)
        except ProcessLookupError:
            return []

    def _check_alive(self) -> None:
        if self._has_ended():
            raise ProcessLookupError(f"process {self._pid} is gone")


def pin(procfs: Procfs, pid: int, cpus: CpuSet, has_ended: Callable[[], bool]) -> Pinning:
    """Pin a process and return what undoes it. Raises as ``Pinning.pin`` does, after everything was restored."""
    pinning = Pinning(procfs, pid, cpus, has_ended)
    try:
        pinning.pin()
    except BaseException:
        pinning.undo()
        raise
    return pinning
