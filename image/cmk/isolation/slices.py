"""The layer ``isolation.host=slices``: the cgroups beside kubepods (system.slice, user.slice and their like) leave exclusive cores."""

from __future__ import annotations

from cmk.host.containers import GONE
from cmk.host.procfs import Procfs
from cmk.isolation import masks
from cmk.isolation.cgroups import FILE, CpusetTree
from cmk.isolation.originals import Originals
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import IMPOSSIBLE, ON, LayerState
from cmk.model.topology import Topology


class SliceLayer:
    """Cpusets of the cgroups beside kubepods, as systemd makes them, narrowed and restored. Works on cgroup v2 only."""

    def __init__(self, tree: CpusetTree, procfs: Procfs, topology: Topology, originals: Originals) -> None:
        self._tree = tree
        self._procfs = procfs
        self._topology = topology
        self._originals = originals

    def isolate(self, closed: CpuSet) -> LayerState:
        """Remove ``closed`` CPUs from each slice, and give back those that were closed before. Raises StateError.

        Never adds isolcpus CPUs. If another program changed a slice since, that cpuset stays, minus closed CPUs.
        """
        if self._tree.strict:
            return LayerState(IMPOSSIBLE, "on cgroup v1 systemd sets no cpusets: use isolation.host=affinity")
        names = self._names()
        if not names:
            return LayerState(IMPOSSIBLE, "no cgroup beside kubepods has a cpuset: use isolation.host=affinity")
        saved = self._originals.saved
        configured = {name: self._tree.read(f"../{name}") for name in names}
        added = {name: cpus for name, cpus in configured.items() if name not in saved.slices}
        if added:
            self._originals.save_slices({**saved.slices, **added})
        left = []
        for name, cpus in configured.items():
            now = cpus or self._topology.cpus  # not the effective CPUs: a partition takes some of those and gives them back
            before = saved.slices.get(name, cpus) or self._topology.cpus
            unchanged = now == before - saved.closed - self._topology.unbalanced
            wanted = (before if unchanged else now) - closed - self._topology.unbalanced
            if now & closed or (unchanged and now != wanted):
                left += self._write(name, wanted)
        return LayerState(ON, "", tuple(left))

    def restore(self) -> None:
        """Give each slice its original CPUs back. Raises StateError, OSError."""
        slices = self._originals.saved.slices
        if not slices:
            return
        with masks.preserved(self._procfs, self._topology.cpus - self._topology.unbalanced):
            for name, before in slices.items():
                try:
                    self._tree.restore(f"../{name}", before)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        self._originals.save_slices({})

    def _write(self, name: str, cpus: CpuSet) -> list[str]:
        if not cpus:
            return [f"{name}: has no other CPU"]
        try:
            self._tree.write(f"../{name}", cpus)
        except OSError as error:
            return [] if error.errno in GONE else [f"{name}: {cpuset.kernel_list(cpus)} refused: {error.strerror}"]
        return []

    def _names(self) -> list[str]:
        beside = self._tree.top.parent
        return sorted(entry.name for entry in beside.iterdir() if entry != self._tree.top and (entry / FILE).exists())
