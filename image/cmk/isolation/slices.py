"""The host's cgroups beside kubepods off exclusive cores: system.slice, user.slice and their like."""

from __future__ import annotations

from cmk.host.procfs import Procfs
from cmk.isolation.cgroups import FILE, GONE, Cpusets
from cmk.isolation.masks import kept
from cmk.isolation.originals import Originals
from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import IMPOSSIBLE, ON, LayerState
from cmk.model.topology import Topology


class Slices:
    """The cgroups beside kubepods, as systemd makes them (system.slice, user.slice), on cgroup v2."""

    def __init__(self, cpusets: Cpusets, procfs: Procfs, topology: Topology, originals: Originals) -> None:
        self._cpusets = cpusets
        self._procfs = procfs
        self._topology = topology
        self._originals = originals

    def on(self, closed: CpuSet) -> LayerState:
        """Leave each the rest of its CPUs; those that isolcpus isolates are for nobody who has not asked for one. What somebody has set
        since is his, less what is closed.
        """
        if self._cpusets.strict:
            return LayerState(IMPOSSIBLE, "on cgroup v1 systemd leaves cpusets alone: use isolation.host=affinity")
        names = self._names()
        if not names:
            return LayerState(IMPOSSIBLE, "no cgroup with a cpuset beside kubepods: use isolation.host=affinity")
        saved = self._originals.saved
        have = {name: self._cpusets.read(f"../{name}") for name in names}
        news = {name: cpus for name, cpus in have.items() if name not in saved.slices}
        if news:
            self._originals.save_slices({**saved.slices, **news})
        left = []
        for name, cpus in have.items():
            now = cpus or self._topology.cpus  # not what is effective: a partition takes CPUs from that and gives them back
            before = saved.slices.get(name, cpus) or self._topology.cpus
            ours = now == before - saved.closed - self._topology.unbalanced
            wanted = (before if ours else now) - closed - self._topology.unbalanced
            if now & closed or (ours and now != wanted):
                left += self._write(name, wanted)
        return LayerState(ON, "", tuple(left))

    def off(self) -> None:
        """Give each its own set back."""
        slices = self._originals.saved.slices
        if not slices:
            return
        with kept(self._procfs, self._topology.cpus - self._topology.unbalanced):
            for name, before in slices.items():
                try:
                    self._cpusets.give_back(f"../{name}", before)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        self._originals.save_slices({})

    def _write(self, name: str, cpus: CpuSet) -> list[str]:
        if not cpus:
            return [f"{name}: has no other CPU"]
        try:
            self._cpusets.write(f"../{name}", cpus)
        except OSError as error:
            return [] if error.errno in GONE else [f"{name}: {cpuset.kernel_list(cpus)} refused: {error.strerror}"]
        return []

    def _names(self) -> list[str]:
        beside = self._cpusets.top.parent
        return sorted(entry.name for entry in beside.iterdir() if entry != self._cpusets.top and (entry / FILE).exists())
