"""The isolation layers of a node: switched on and off as configured, undone from what was saved, and what there is to say about each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmk.host.procfs import Procfs
from cmk.isolation.cgroups import CgroupError, Cpusets
from cmk.isolation.host_processes import HostProcesses
from cmk.isolation.interrupts import IrqLayer, Irqs
from cmk.isolation.originals import Originals
from cmk.isolation.pod_layer import PodLayer
from cmk.isolation.slices import Slices
from cmk.model.isolation_config import ALL_OFF, IMPOSSIBLE, NO_CGROUPS, OFF, Isolation, LayerState
from cmk.model.ledger import Ledger
from cmk.model.topology import Topology

SECONDS_BETWEEN_PASSES = 30.0


class HostPaths(msgspec.Struct, frozen=True):
    """``originals``: file of what every layer is undone from. ``cgroups``, ``irqs``: the host's, None where they cannot be written."""

    originals: Path
    cgroups: Path | None = None
    irqs: Path | None = None


class Layers:
    """``changed`` is called whenever there is something new to report. Nothing is touched before ``resume`` or ``apply``."""

    def __init__(
        self,
        paths: HostPaths,
        procfs: Procfs,
        ledger: Ledger,
        topology: Topology,
        changed: Callable[[], None],
        open_cpusets: Callable[[Path], Cpusets] = Cpusets,
    ) -> None:
        self._open_cpusets = open_cpusets
        self._originals = Originals(paths.originals, procfs.boot_id())
        self._cgroups = paths.cgroups
        self._irqs = IrqLayer(Irqs(paths.irqs), procfs, self._originals) if paths.irqs else None
        self._processes = HostProcesses(procfs, self._originals)
        self._procfs = procfs
        self._topology = topology
        self._changed = changed
        self._pods = PodLayer(paths.cgroups, procfs, ledger, topology, self._originals, changed, open_cpusets)
        self._host = self._interrupts = LayerState(OFF)
        self._conflict = self._doubt = ""
        self._applied: tuple[Isolation, str] | None = None
        self._pass: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Go on where an earlier agent stopped, before anybody is served. Raises StateError."""
        if self._originals.load():
            self._switch()

    def apply(self, settings: Isolation, conflict: str, doubt: str = "") -> None:
        """Make the layers as configured; ``conflict`` names another manager of CPUs on this node, if there is one; ``doubt`` why that
        is not sure. Raises StateError.
        """
        self._doubt = doubt
        if (settings, conflict) != self._applied:
            self._conflict = conflict
            self._originals.save_settings(settings)
            self._switch()
            self._applied = settings, conflict
            self._changed()

    def settle(self) -> None:
        """Nobody but holders is on cores that are held when this returns; called before a core is handed out and after its release."""
        self._pods.settle()

    def renew(self) -> None:
        """The pools are others now, or about to be: every layer is to fit them when this returns. Raises StateError."""
        self._pods.settle()
        self._switch_host()
        self._switch_irqs()
        self._note_closed()

    def stop(self) -> None:
        """Leave everything as it is: cores stay closed while no agent looks."""
        if self._pass is not None:
            self._pass.cancel()
        self._pods.stop()

    def undo(self) -> None:
        """Everything as it was before the first change."""
        self.stop()
        self._originals.save_settings(ALL_OFF)
        self._switch()
        self.stop()
        self._originals.delete()

    def states(self) -> dict[str, LayerState]:
        """How each layer is doing."""
        return {**self._pods.states(self._doubt), "host": self._host, "irqs": self._interrupts}

    def beside(self) -> list[dict[str, object]]:
        """Processes that may use an exclusive core beside its owner, because they are in the owner's container."""
        return self._pods.beside()

    @property
    def drift(self) -> int:
        """Sets that somebody changed and we put right, since this agent started."""
        return self._pods.drift

    def _switch(self) -> None:
        if self._pass is not None:
            self._pass.cancel()
        self._pass = asyncio.get_running_loop().call_later(SECONDS_BETWEEN_PASSES, self._on_pass)
        self._pods.switch(self._conflict)
        self._switch_host()
        self._switch_irqs()
        self._note_closed()

    def _on_pass(self) -> None:
        """What could not be done may be possible by now; what has no event of its own is told again."""
        self._switch()
        self._changed()

    def _switch_host(self) -> None:
        wanted = self._originals.saved.settings.host
        if wanted != "affinity":
            self._processes.off()
        self._host = LayerState(OFF)
        if wanted == "affinity":
            self._host = self._processes.on(self._pods.exclusive)
        if self._cgroups is None:
            if wanted == "slices":
                self._host = LayerState(IMPOSSIBLE, NO_CGROUPS)
            return
        if wanted != "slices" and not self._originals.saved.slices:
            return
        try:
            slices = Slices(self._open_cpusets(self._cgroups), self._procfs, self._topology, self._originals)
        except CgroupError as error:
            self._host = LayerState(IMPOSSIBLE, str(error))
            return
        if wanted == "slices":
            self._host = slices.on(self._pods.exclusive)
        else:
            slices.off()

    def _switch_irqs(self) -> None:
        exclusive = self._pods.exclusive
        wanted, others = self._originals.saved.settings.irqs == "on", self._topology.cpus - exclusive
        if self._irqs is None:
            self._interrupts = LayerState(IMPOSSIBLE, "the agent has no access to interrupts") if wanted else LayerState(OFF)
        elif wanted:
            self._interrupts = self._irqs.on(exclusive, others)
        else:
            self._irqs.off(exclusive, others)
            self._interrupts = LayerState(OFF)

    def _note_closed(self) -> None:
        """Last, so that until then everybody is known to be off these CPUs or those before."""
        if self._originals.saved.closed != self._pods.exclusive:
            self._originals.save_closed(self._pods.exclusive)
