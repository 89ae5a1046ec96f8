"""CPU affinity of whole processes: set for every thread and read back, because the kernel silently intersects it with the cpuset."""

from __future__ import annotations

import os
import threading

from cmk.host.procfs import Procfs
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError


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


def pin(procfs: Procfs, pid: int, cpus: CpuSet) -> None:
    """Set the affinity of every thread of a process and read it back.

    Raises AffinityError after the old affinity was restored, ProcessLookupError when the process is gone.
    """
    before: dict[int, set[int]] = {}
    try:
        # A thread inherits the mask of its creator: repeat until a pass meets no thread that was created meanwhile.
        while new := set(procfs.threads(pid)) - before.keys():
            for tid in new:
                before[tid] = os.sched_getaffinity(tid)
                _pin_thread(tid, cpus)
    except AffinityError:
        _restore(before)
        raise


def _pin_thread(tid: int, cpus: CpuSet) -> None:
    try:
        os.sched_setaffinity(tid, cpus)
        got = os.sched_getaffinity(tid)
    except ProcessLookupError:
        return  # a thread that ended needs no CPU; the end of a process shows at its pidfd
    except OSError as error:
        raise AffinityError(
            f"CPUs {cpuset.kernel_list(cpus)} refused by the kernel ({error.strerror}): outside the container's cpuset?"
        ) from error
    if got != cpus:
        raise AffinityError(
            f"CPUs {cpuset.kernel_list(cpus)} asked, the container's cpuset allows only {cpuset.kernel_list(got)} of them"
        )


def _restore(before: dict[int, set[int]]) -> None:
    for tid, cpus in before.items():
        try:
            os.sched_setaffinity(tid, cpus)
        except OSError:
            continue  # the thread ended or its cpuset changed; the caller raises the error that matters
