"""The new CPU mask of a thread whose task gets other CPU lists: the thread's own mask is mapped CPU by CPU and never flattened.

A thread that was bound to one CPU of its task (an lcore of DPDK) is bound to one CPU afterwards, the first sibling of a core to a first
sibling. Pure and idempotent: a mask that has been mapped maps to itself.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from cmk.model.cpuset import CpuSet

NOTHING: CpuSet = frozenset()


class CpuMap:
    """Maps a task's old CPUs to its new ones: kept lists to themselves, removed lists to added lists in order.

    ``old`` and ``new`` are all CPUs of the task before and after.
    """

    def __init__(self, old: Sequence[CpuSet], new: Sequence[CpuSet]) -> None:
        self.old, self.new = NOTHING.union(*old), NOTHING.union(*new)
        self._both = self.old | self.new
        self._masks: dict[CpuSet, CpuSet] = {}
        self._cpus: dict[int, int] = {}
        removed = sorted((cpus for cpus in old if cpus not in new), key=min)
        added = sorted((cpus for cpus in new if cpus not in old), key=min)
        for index, cpus in enumerate(removed):
            targets = sorted(added[index % len(added)] if added else self.new)
            for position, cpu in enumerate(sorted(cpus)):
                self._cpus[cpu] = cpu if cpu in self.new else targets[position % len(targets)]

    def new_mask(self, mask: Set[int]) -> Set[int]:
        """The new mask of a thread that had ``mask``; the same mask for a thread that runs on CPUs outside its task."""
        # Most threads of a task have the same mask.
        key = frozenset(mask)
        result = self._masks.get(key)
        if result is None:
            result = self._masks[key] = self._compute(key)
        return result

    def _compute(self, mask: CpuSet) -> CpuSet:
        if not mask <= self._both:
            return mask
        if mask == self.old:
            return self.new
        return frozenset(self._cpus.get(cpu, cpu) for cpu in mask)
