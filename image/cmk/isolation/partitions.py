"""Containers as isolated partitions of cgroup v2: cores without load balancing and without the kernel's unbound work.

The only writer of ``cpuset.cpus.exclusive`` and ``cpuset.cpus.partition``. What there is, is read from the tree: an agent that was killed
leaves nothing that the next one would not find.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from cmk.host.procfs import Procfs
from cmk.isolation import desired
from cmk.isolation.cgroups import GONE, Cpusets
from cmk.isolation.cpusets import Keepout
from cmk.isolation.desired import NOTHING, Hold
from cmk.isolation.masks import back, kept
from cmk.isolation.originals import Originals
from cmk.model import cpuset
from cmk.model.cgroup_path import container_of, is_nested, top_down
from cmk.model.cpuset import CpuSet
from cmk.model.topology import Topology

EXCLUSIVE, PARTITION = "cpuset.cpus.exclusive", "cpuset.cpus.partition"
MEMBER, ISOLATED = "member", "isolated"


class Partitions:
    """``alone`` are the groups that are partitions, or are being made one, with what they hold: their sets have to be just that."""

    def __init__(self, cpusets: Cpusets, procfs: Procfs, topology: Topology, originals: Originals) -> None:
        self._cpusets = cpusets
        self._procfs = procfs
        self._topology = topology
        self._originals = originals
        self.alone: dict[str, CpuSet] = {}
        self._refused: dict[str, str] = {}

    def why_not(self) -> str:
        """Why there can be none on this node; empty when there can."""
        if self._cpusets.strict:
            return "cgroup v1 has no partitions"
        if not (self._cpusets.top / EXCLUSIVE).exists():
            return f"this kernel has no {EXCLUSIVE}: 6.7 and later have"
        return ""

    def let_go(self, groups: Iterable[str], holds: Iterable[Hold], exclusive: CpuSet) -> list[str]:
        """End what nobody holds any more, before its set changes; returns what went wrong. What an earlier agent made is taken over."""
        have = self.now(groups)
        fit = desired.candidates(groups, holds, exclusive)
        self.alone = {path: cpus for path, cpus in fit.items() if have.get(path) == cpus and self._is_one(path)}
        return self.end(have, self.alone)

    def take(self, keepout: Keepout, holds: Iterable[Hold], exclusive: CpuSet) -> list[str]:
        """Make partitions of the containers that fit; returns what could not be done, and why."""
        holds = list(holds)
        left = self.let_go(keepout.groups, holds, exclusive)
        fit = desired.candidates(keepout.groups, holds, exclusive)
        # What the kernel has refused once is not tried again: it would shake everybody's masks each time.
        self._refused = {path: why for path, why in self._refused.items() if path in fit}
        for path, cpus in fit.items():
            if path in self.alone:
                continue
            # Where isolcpus has been there is nothing to gain, and a partition that ends leaves cpuset.cpus.isolated without them.
            why = "isolcpus isolates its CPUs already" if cpus & self._topology.unbalanced else self._refused.get(path, "")
            why = why or self._strangers(keepout.pids_in(container_of(path)), cpus)
            if not why:
                before, self.alone = self.alone, {**self.alone, path: cpus}
                keepout.settle()
                why = self.begin(path, self.now(keepout.groups), self.alone)
                if why:
                    self.alone, self._refused[path] = before, why
                    left += self.end(self.now(keepout.groups), before)
                    keepout.settle()
            if why:
                place = container_of(path)
                left.append(f"container {place.container[:12]} of pod {place.pod}: {why}")
        return left

    def now(self, groups: Iterable[str]) -> dict[str, CpuSet]:
        """Groups with CPUs exclusive to them, and which."""
        found = {path: self._exclusive(path) for path in groups if not is_nested(path)}
        return {path: cpus for path, cpus in found.items() if cpus}

    def end(self, have: Mapping[str, CpuSet], keep: Mapping[str, CpuSet]) -> list[str]:
        """Of what there is, leave these partitions alone, and what they need above them; returns what went wrong."""
        wanted = desired.chain(keep)
        going = {path: cpus & wanted.get(path, NOTHING) for path, cpus in have.items() if cpus - wanted.get(path, NOTHING)}
        if not going:
            return []
        problems = []
        freed = NOTHING.union(*(have[path] - cpus for path, cpus in going.items()))
        with kept(self._procfs, freed):
            for path in reversed(top_down(going)):
                if self._text(path, PARTITION) not in (MEMBER, ""):
                    problems.append(self._write(path, PARTITION, MEMBER))
                problems.append(self._write(path, EXCLUSIVE, cpuset.kernel_list(going[path])))
        available = self._topology.cpus - NOTHING.union(*keep.values())
        self._originals.save_moved(back(self._procfs, self._originals.saved.moved, available))
        return list(filter(None, problems))

    def begin(self, path: str, have: Mapping[str, CpuSet], keep: Mapping[str, CpuSet]) -> str:
        """Make a group that has all it needs but this, one of ``keep``, a partition; returns why it is none."""
        wanted = desired.chain(keep)
        with kept(self._procfs, NOTHING) as moved:
            for group in [*desired.above(path), path]:
                if have.get(group, NOTHING) != wanted[group]:
                    problem = self._write(group, EXCLUSIVE, cpuset.kernel_list(wanted[group]))
                    if problem:
                        return problem
            problem = self._write(path, PARTITION, ISOLATED)
        known = {(thread.tid, thread.start) for thread in self._originals.saved.moved}
        if news := [thread for thread in moved if (thread.tid, thread.start) not in known]:
            self._originals.save_moved([*self._originals.saved.moved, *news])
        # A partition that the kernel does not like is written without an error and says why when it is read.
        state = self._text(path, PARTITION)
        return problem or ("" if state == ISOLATED else state or "it is gone")

    def _strangers(self, pids: Iterable[int], cpus: CpuSet) -> str:
        """A process that may run elsewhere than on ``cpus``, in words; empty when there is none."""
        for pid in pids:
            try:
                for tid in self._procfs.threads(pid):
                    if not os.sched_getaffinity(tid) <= cpus:
                        return f"process {pid} ({self._procfs.name(pid)}) runs elsewhere too"
            except ProcessLookupError:
                continue
        return ""

    def _is_one(self, path: str) -> bool:
        return self._text(path, PARTITION) == ISOLATED

    def _exclusive(self, path: str) -> CpuSet:
        return cpuset.parse(self._text(path, EXCLUSIVE))

    def _text(self, path: str, name: str) -> str:
        try:
            return self._cpusets.text(path, name)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return ""

    def _write(self, path: str, name: str, text: str) -> str:
        try:
            self._cpusets.write_text(path, name, text)
        except OSError as error:
            return "" if error.errno in GONE else f"{self._cpusets.directory(path)}/{name}: {text!r} refused: {error.strerror}"
        return ""
