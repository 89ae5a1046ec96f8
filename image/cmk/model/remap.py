"""Where a thread goes when its task's CPU lists change: its own mask is mapped place by place and never flattened.

A thread that was bound to one CPU of its task (an lcore of DPDK) is bound to one CPU afterwards, the first sibling of a core to a first
sibling. Pure, and harmless to repeat: what has been mapped already maps to itself.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from cmk.model.cpuset import CpuSet

NOTHING: CpuSet = frozenset()


class Mapping:
    """From the CPU lists of a task before to those after. A list that stays maps to itself; those that go, in order, to those that come."""

    def __init__(self, old: Sequence[CpuSet], new: Sequence[CpuSet]) -> None:
        self.old, self.new = NOTHING.union(*old), NOTHING.union(*new)
        self._both = self.old | self.new
        self._made: dict[CpuSet, CpuSet] = {}
        self._to: dict[int, int] = {}
        going = sorted((cpus for cpus in old if cpus not in new), key=min)
        coming = sorted((cpus for cpus in new if cpus not in old), key=min)
        for index, cpus in enumerate(going):
            places = sorted(coming[index % len(coming)] if coming else self.new)
            for place, cpu in enumerate(sorted(cpus)):
                self._to[cpu] = cpu if cpu in self.new else places[place % len(places)]

    def mask(self, mask: Set[int]) -> Set[int]:
        """The new mask of a thread that had this one; the same for a thread that runs elsewhere than its task."""
        # Most threads of a task have the same mask.
        key = frozenset(mask)
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = self._make(key)
        return found

    def _make(self, mask: CpuSet) -> CpuSet:
        if not mask <= self._both:
            return mask
        if mask == self.old:
            return self.new
        return frozenset(self._to.get(cpu, cpu) for cpu in mask)
