"""CPU affinity of whole processes: every thread, read back, because the kernel silently intersects with the cpuset."""

from __future__ import annotations

import os
import threading

from cmk.host.procfs import Procfs
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError


class AffinityError(CmkError):
    """The affinity could not be set as asked; the text says what came out instead."""


def allowed(cpus: CpuSet) -> CpuSet:
    """Which of ``cpus`` the cpuset of this very process lets it use, whatever its affinity is now."""
    found: list[CpuSet] = []

    def ask() -> None:
        # The kernel intersects with the cpuset; a thread of its own leaves everybody else's affinity alone.
        try:
            os.sched_setaffinity(0, cpus)
        except OSError:
            found.append(frozenset())  # EINVAL: none of them
        else:
            found.append(frozenset(os.sched_getaffinity(0)))

    thread = threading.Thread(target=ask, name="cpuset")
    thread.start()
    thread.join()
    return found[0]


def pin(procfs: Procfs, pid: int, cpus: CpuSet) -> None:
    """Set the affinity of every thread of a process and verify it; raises AffinityError with the old affinity restored,
    or ProcessLookupError when the process is gone.
    """
    before: dict[int, set[int]] = {}
    try:
        # Threads born while we look inherit their creator's mask: go round until a pass finds none that is new.
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
        return  # a thread that ended needs no CPU; a process that ended is noticed by its pidfd
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
            continue  # ended meanwhile, or its cpuset changed: the caller's error tells what matters
