"""Containers as isolated partitions of cgroup v2: cores without load balancing and without the kernel's unbound work.

The only writer of ``cpuset.cpus.exclusive`` and ``cpuset.cpus.partition``. Which partitions exist is read from the tree, so that an agent
finds those of an earlier one that was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cmk.host.affinity import mask_of
from cmk.host.containers import GONE
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.isolation import desired, masks
from cmk.isolation.cgroups import CpusetTree
from cmk.isolation.cpusets import PodCpusets
from cmk.isolation.desired import NOTHING, Hold
from cmk.isolation.originals import Originals
from cmk.model import cpuset
from cmk.model.cgroup_path import container_of, is_nested, top_down
from cmk.model.cpuset import CpuSet
from cmk.model.topology import Topology

EXCLUSIVE, PARTITION = "cpuset.cpus.exclusive", "cpuset.cpus.partition"
MEMBER, ISOLATED = "member", "isolated"


class Partitions:
    """The partitions of a node. ``current``: groups that are partitions, or are about to be, with the CPUs that their cpusets must have."""

    def __init__(self, tree: CpusetTree, procfs: Procfs, topology: Topology, originals: Originals) -> None:
        self._tree = tree
        self._procfs = procfs
        self._topology = topology
        self._originals = originals
        self.current: dict[str, CpuSet] = {}
        self._refused: dict[str, str] = {}

    def why_impossible(self) -> str:
        """Why this node cannot have partitions; empty when it can."""
        if self._tree.strict:
            return "cgroup v1 has no partitions: set isolation.partition=off"
        if not (self._tree.top / EXCLUSIVE).exists():
            return f"this kernel has no {EXCLUSIVE}: use Linux 6.7 or later, or set isolation.partition=off"
        return ""

    def end_unheld(self, groups: Iterable[str], holds: Iterable[Hold], exclusive: CpuSet) -> list[str]:
        """End the partitions whose CPUs no task holds any more, before their cpusets change; returns error messages.

        A partition that an earlier agent made and that fits goes on.
        """
        existing = self.existing(groups)
        candidates = desired.partition_candidates(groups, holds, exclusive)
        self.current = {path: cpus for path, cpus in candidates.items() if existing.get(path) == cpus and self._is_isolated(path)}
        return self.end(existing, self.current)

    def make(self, cpusets: PodCpusets, holds: Iterable[Hold], exclusive: CpuSet) -> list[str]:
        """Make partitions of the containers that can be; returns error messages, and why each other container with a task is none."""
        holds = list(holds)
        problems = self.end_unheld(cpusets.groups, holds, exclusive)
        candidates = desired.partition_candidates(cpusets.groups, holds, exclusive)
        # A refusal of the kernel is not asked for again: each attempt sets the masks of all threads anew.
        self._refused = {path: why for path, why in self._refused.items() if path in candidates}
        for path, cpus in candidates.items():
            if path in self.current:
                continue
            if why := self._obstacle(path, cpus, cpusets) or self._try(path, cpus, cpusets, problems):
                container = container_of(path)
                problems.append(f"container {container.container[:12]} of pod {container.pod}: {why}")
        return problems

    def existing(self, groups: Iterable[str]) -> dict[str, CpuSet]:
        """The groups that have exclusive CPUs, with these CPUs."""
        exclusive = {path: self._exclusive(path) for path in groups if not is_nested(path)}
        return {path: cpus for path, cpus in exclusive.items() if cpus}

    def end(self, existing: Mapping[str, CpuSet], keep: Mapping[str, CpuSet]) -> list[str]:
        """End every partition except those in ``keep``, and take exclusive CPUs from groups above them; returns error messages."""
        kept = desired.exclusive_cpus(keep)
        remains = {path: cpus & kept.get(path, NOTHING) for path, cpus in existing.items() if cpus - kept.get(path, NOTHING)}
        if not remains:
            return []
        problems = []
        freed = NOTHING.union(*(existing[path] - cpus for path, cpus in remains.items()))
        with masks.preserved(self._procfs, freed):
            for path in reversed(top_down(remains)):
                if self._read(path, PARTITION) not in (MEMBER, ""):
                    problems.append(self._write(path, PARTITION, MEMBER))
                problems.append(self._write(path, EXCLUSIVE, cpuset.kernel_list(remains[path])))
        available = self._topology.cpus - NOTHING.union(*keep.values())
        try:
            self._originals.forget_moved(masks.restore(self._procfs, self._originals.saved.moved, available))
        except StateError as error:
            problems.append(str(error))
        return list(filter(None, problems))

    def _obstacle(self, path: str, cpus: CpuSet, cpusets: PodCpusets) -> str:
        """Why a container is not to become a partition; empty when it is."""
        # A partition adds nothing to isolcpus, and one that ends takes its CPUs out of cpuset.cpus.isolated.
        if cpus & self._topology.unbalanced:
            return "isolcpus isolates its CPUs already"
        return self._refused.get(path, "") or self._runs_elsewhere(cpusets.pids_in(container_of(path)), cpus)

    def _try(self, path: str, cpus: CpuSet, cpusets: PodCpusets, problems: list[str]) -> str:
        """Make one container a partition; returns the reason if the kernel refuses, else ``""``. What cannot be undone then is added to
        ``problems``.
        """
        before, self.current = self.current, {**self.current, path: cpus}
        cpusets.enforce()
        try:
            why = self._refused[path] = self._begin(path, self.existing(cpusets.groups))
        except StateError as error:
            why = str(error)  # tried again when the disk may have room
        if why:
            self.current = before
            problems += self.end(self.existing(cpusets.groups), before)
            cpusets.enforce()
        return why

    def _begin(self, path: str, existing: Mapping[str, CpuSet]) -> str:
        """Turn a group with the right cpuset into a partition; returns the reason if the kernel refuses, else ``""``. Raises StateError."""
        exclusive = desired.exclusive_cpus(self.current)
        with masks.preserved(self._procfs, NOTHING) as changed:
            for group in [*desired.ancestors(path), path]:
                if existing.get(group, NOTHING) != exclusive[group]:
                    problem = self._write(group, EXCLUSIVE, cpuset.kernel_list(exclusive[group]))
                    if problem:
                        return problem
            problem = self._write(path, PARTITION, ISOLATED)
        known = {(thread.tid, thread.start) for thread in self._originals.saved.moved}
        if added := [thread for thread in changed if (thread.tid, thread.start) not in known]:
            self._originals.save_moved([*self._originals.saved.moved, *added])
        # The kernel accepts the write for a partition that it refuses, and gives the reason when the file is read.
        state = self._read(path, PARTITION)
        return problem or ("" if state == ISOLATED else state or "the cgroup is gone")

    def _runs_elsewhere(self, pids: Iterable[int], cpus: CpuSet) -> str:
        """The first process that may run on other CPUs than ``cpus``, as a reason; empty when there is none."""
        for pid in pids:
            try:
                if any(mask and not mask <= cpus for mask in map(mask_of, self._procfs.threads(pid))):
                    return f"process {pid} ({self._procfs.name(pid)}) may run on other CPUs too"
            except ProcessLookupError:
                continue
        return ""

    def _is_isolated(self, path: str) -> bool:
        return self._read(path, PARTITION) == ISOLATED

    def _exclusive(self, path: str) -> CpuSet:
        return cpuset.parse(self._read(path, EXCLUSIVE))

    def _read(self, path: str, name: str) -> str:
        try:
            return self._tree.read_file(path, name)
        except OSError as error:
            if error.errno not in GONE:
                raise
            return ""

    def _write(self, path: str, name: str, text: str) -> str:
        try:
            self._tree.write_file(path, name, text)
        except OSError as error:
            return "" if error.errno in GONE else f"{self._tree.directory(path)}/{name}: {text!r} refused: {error.strerror}"
        return ""
