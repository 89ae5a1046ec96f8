"""The isolation layers of a node behind one entry: applied as configured, enforced as tasks come and go, undone from their originals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.isolation.cgroups import CgroupError, CpusetTree
from cmk.isolation.host_processes import ProcessLayer
from cmk.isolation.interrupts import InterruptLayer, ProcIrq
from cmk.isolation.originals import Originals
from cmk.isolation.pod_layer import PodLayer
from cmk.isolation.slices import SliceLayer
from cmk.model.isolation_config import ALL_OFF, IMPOSSIBLE, NO_CGROUPS, OFF, Isolation, LayerState
from cmk.model.ledger import Ledger
from cmk.model.topology import Topology

log = logging.getLogger(__name__)

SECONDS_BETWEEN_PASSES = 30.0
LAYERS = ("pods", "ownPod", "idle", "partition", "host", "irqs")


class HostPaths(msgspec.Struct, frozen=True):
    """``originals``: the file of originals. ``cgroups``, ``irqs``: directories of the host, None where the agent cannot write them."""

    originals: Path
    cgroups: Path | None = None
    irqs: Path | None = None


class Layers:
    """All isolation layers of a node. Nothing is changed before ``resume`` or ``apply``.

    ``report_changed`` is called whenever ``states`` or ``drift`` may have changed.
    """

    def __init__(
        self,
        paths: HostPaths,
        procfs: Procfs,
        ledger: Ledger,
        topology: Topology,
        report_changed: Callable[[], None],
        open_tree: Callable[[Path], CpusetTree] = CpusetTree,
    ) -> None:
        self._open_tree = open_tree
        self._originals = Originals(paths.originals, procfs.boot_id())
        self._cgroups = paths.cgroups
        self._irqs = InterruptLayer(ProcIrq(paths.irqs), procfs, self._originals) if paths.irqs else None
        self._processes = ProcessLayer(procfs, self._originals)
        self._procfs = procfs
        self._topology = topology
        self._report_changed = report_changed
        self._pods = PodLayer(paths.cgroups, procfs, ledger, topology, self._originals, report_changed, open_tree)
        self._host_state = self._irqs_state = LayerState(OFF)
        self._conflict = self._doubt = self._unusable = ""
        self._applied: tuple[Isolation, str] | None = None
        self._next_pass: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Go on with the settings of an earlier agent, before any task is served."""
        try:
            is_isolated = self._originals.load()
        except StateError as error:
            # What the node was before is not known, and what a layer finds now must not be taken for it.
            self._unusable = str(error)
            log.error("no isolation: %s", error)
            return
        if is_isolated:
            self._apply_saved()

    @property
    def fault(self) -> str:
        """What is wrong with the file of originals; empty if nothing is."""
        return self._unusable or self._originals.fault

    def apply(self, settings: Isolation, conflict: str, doubt: str = "") -> None:
        """Bring the layers to these settings.

        ``conflict`` names another manager of CPUs on this node, if there is one; ``doubt`` says why that is not certain. A layer whose
        originals cannot be saved is impossible, and tried again with every pass.
        """
        self._doubt = doubt
        if (settings, conflict) != self._applied and not self._unusable:
            self._conflict = conflict
            self._guard(lambda: self._originals.save_settings(settings))
            self._apply_saved()
            self._applied = settings, conflict
            self._report_changed()

    def enforce(self) -> None:
        """On return only their holders can use held cores; called before a core is handed out and after its release."""
        self._pods.enforce()

    def refit(self) -> None:
        """Fit every layer to the pools, which are others now or about to be."""
        if not self._unusable:
            self._pods.enforce()
            self._apply_others()

    def stop(self) -> None:
        """Stop enforcing, and leave everything as it is: cores stay closed while no agent runs."""
        if self._next_pass is not None:
            self._next_pass.cancel()
        self._pods.stop()

    def undo(self) -> None:
        """Restore everything to how it was before the first change, and stop. Raises StateError, with everything restored."""
        self.stop()
        if self._unusable:
            return
        self._guard(lambda: self._originals.save_settings(ALL_OFF))
        self._apply_saved()
        self.stop()
        self._originals.delete()

    def states(self) -> dict[str, LayerState]:
        """The state of each layer."""
        if self._unusable:
            return dict.fromkeys(LAYERS, LayerState(IMPOSSIBLE, self._unusable))
        return {**self._pods.states(self._doubt), "host": self._host_state, "irqs": self._irqs_state}

    def beside_tasks(self) -> list[dict[str, object]]:
        """Processes that may use an exclusive core beside its owner because they run in the owner's container."""
        return self._pods.beside_tasks()

    @property
    def drift(self) -> int:
        """How many cpusets another program changed that this agent has put right."""
        return self._pods.drift

    def _apply_saved(self) -> None:
        if self._next_pass is not None:
            self._next_pass.cancel()
        self._next_pass = asyncio.get_running_loop().call_later(SECONDS_BETWEEN_PASSES, self._on_pass)
        self._pods.apply(self._conflict)
        self._apply_others()

    def _apply_others(self) -> None:
        """Record the closed CPUs last: until then the saved ones still describe what slices and interrupts avoid."""
        settings = self._originals.saved.settings
        if problem := self._guard(self._apply_host):
            self._host_state = LayerState(OFF if settings.host == "off" else IMPOSSIBLE, problem)
        if problem := self._guard(self._apply_irqs):
            self._irqs_state = LayerState(OFF if settings.irqs == "off" else IMPOSSIBLE, problem)
        self._guard(lambda: self._originals.save_closed(self._pods.exclusive))

    def _guard(self, work: Callable[[], None]) -> str:
        """Do something that saves originals; returns why they could not be saved, "" if they were."""
        try:
            work()
        except StateError as error:
            log.error("%s", error)
            return str(error)
        return ""

    def _on_pass(self) -> None:
        """Retry what failed, and refresh what sends no events."""
        self._apply_saved()
        self._report_changed()

    def _apply_host(self) -> None:
        wanted = self._originals.saved.settings.host
        if wanted != "affinity":
            self._processes.restore()
        self._host_state = LayerState(OFF)
        if wanted == "affinity":
            self._host_state = self._processes.isolate(self._pods.exclusive)
        if self._cgroups is None:
            if wanted == "slices":
                self._host_state = LayerState(IMPOSSIBLE, NO_CGROUPS)
            return
        if wanted != "slices" and not self._originals.saved.slices:
            return
        try:
            slices = SliceLayer(self._open_tree(self._cgroups), self._procfs, self._topology, self._originals)
        except CgroupError as error:
            self._host_state = LayerState(IMPOSSIBLE, str(error))
            return
        if wanted == "slices":
            self._host_state = slices.isolate(self._pods.exclusive)
        else:
            slices.restore()

    def _apply_irqs(self) -> None:
        exclusive = self._pods.exclusive
        wanted, others = self._originals.saved.settings.irqs == "on", self._topology.cpus - exclusive
        if self._irqs is None:
            self._irqs_state = LayerState(IMPOSSIBLE, "the agent has no access to interrupts") if wanted else LayerState(OFF)
        elif wanted:
            self._irqs_state = self._irqs.isolate(exclusive, others)
        else:
            self._irqs.restore(exclusive, others)
            self._irqs_state = LayerState(OFF)
