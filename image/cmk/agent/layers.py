"""The isolation layers of a node: switched on and off as configured, undone from what was saved, and what there is to say about each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmk.agent.hostlayer import HostProcesses, Slices
from cmk.agent.irqs import IrqLayer
from cmk.agent.keepout import Keepout
from cmk.agent.options import Options
from cmk.host import state
from cmk.host.cgroups import CgroupError, Cpusets
from cmk.host.irqs import Irqs
from cmk.host.members import processes_beside
from cmk.host.procfs import Procfs
from cmk.model import cpuset, keepout
from cmk.model.cpuset import CpuSet
from cmk.model.isolation import ALL_OFF, CONFLICT, IMPOSSIBLE, OFF, ON, Isolation, LayerState, Saved
from cmk.model.keepout import Hold, Rules
from cmk.model.ledger import Ledger
from cmk.model.place import Place, place_of_path
from cmk.model.topology import Topology

log = logging.getLogger(__name__)

SECONDS_BETWEEN_PASSES = 30.0
NO_CGROUPS = "the agent has no access to cgroups"


class Layers:
    """``changed`` is called whenever there is something new to report. Nothing is touched before ``resume`` or ``apply``."""

    def __init__(
        self,
        options: Options,
        procfs: Procfs,
        ledger: Ledger,
        topology: Topology,
        changed: Callable[[], None],
        open_cpusets: Callable[[Path], Cpusets] = Cpusets,
    ) -> None:
        self._open_cpusets = open_cpusets
        self._file = options.isolation_file
        self._cgroups = options.cgroups
        self._irqs = IrqLayer(Irqs(options.irqs), procfs, self._keep) if options.irqs else None
        self._processes = HostProcesses(procfs, self._keep)
        self._ledger = ledger
        self._topology = topology
        self._changed = changed
        self._procfs = procfs
        self._saved = Saved(procfs.boot_id(), Isolation())
        self._keepout: Keepout | None = None
        self._strict = False
        self._pods = self._host = self._interrupts = LayerState(OFF)
        self._conflict = ""
        self._applied: tuple[Isolation, str] | None = None
        self._pass: asyncio.TimerHandle | None = None

    def resume(self) -> None:
        """Go on where an earlier agent stopped, before anybody is served. Raises StateError."""
        found = state.read(self._file, Saved)
        if found is None or found.boot != self._saved.boot:
            return  # the cgroups of another boot are gone, and what they had been with them
        self._saved = found
        self._switch()

    def apply(self, settings: Isolation, conflict: str) -> None:
        """Make the layers as configured; ``conflict`` names another manager of CPUs on this node, if there is one. Raises StateError."""
        if (settings, conflict) != self._applied:
            self._conflict = conflict
            self._keep(settings=settings)
            self._switch()
            self._applied = settings, conflict
            self._changed()

    def settle(self) -> None:
        """Nobody but holders is on cores that are held when this returns; called before a core is handed out and after its release."""
        if self._keepout is not None:
            self._keepout.settle()

    def stop(self) -> None:
        """Leave everything as it is: cores stay closed while no agent looks."""
        if self._pass is not None:
            self._pass.cancel()
        if self._keepout is not None:
            self._keepout.stop()

    def undo(self) -> None:
        """Everything as it was before the first change."""
        self.stop()
        self._keep(settings=ALL_OFF)
        self._switch()
        self.stop()
        self._file.unlink(missing_ok=True)

    def states(self) -> dict[str, LayerState]:
        """How each layer is doing."""
        pods = self._pods
        if self._keepout is not None:
            problem = self._keepout.problem or self._keepout.blind
            pods = LayerState(IMPOSSIBLE if self._keepout.problem else ON, problem)
        settings = self._saved.settings
        found = {"pods": pods, "host": self._host, "irqs": self._interrupts}
        for layer, wanted in (("ownPod", settings.own_pod), ("idle", settings.idle == "reserved")):
            found[layer] = LayerState(OFF)
            if wanted:
                found[layer] = LayerState(ON) if pods.state == ON else LayerState(OFF, "needs isolation.pods, which is not on")
        return found

    def beside(self) -> list[dict[str, object]]:
        """Processes that may use an exclusive core beside its owner, because they are in the owner's container."""
        if self._keepout is None:
            return []
        exclusive = self._exclusive
        found = []
        for task in self._ledger.tasks.values():
            cpus = self._ledger.cpus_of(task)
            if cpus <= exclusive and task.container:
                pids = self._keepout.pids_in(Place(task.pod, task.container))
                for process, name in processes_beside(self._procfs, pids, task.process.pid, cpus):
                    found.append({"pid": process, "name": name, "pod": task.pod, "cpus": cpuset.kernel_list(cpus)})
        return found

    @property
    def drift(self) -> int:
        """Sets that somebody changed and we put right, since this agent started."""
        return self._keepout.drift if self._keepout else 0

    def _switch(self) -> None:
        if self._pass is not None:
            self._pass.cancel()
        self._pass = asyncio.get_running_loop().call_later(SECONDS_BETWEEN_PASSES, self._on_pass)
        self._switch_pods()
        self._switch_host()
        self._switch_irqs()

    def _on_pass(self) -> None:
        """What could not be done may be possible by now; what has no event of its own is told again."""
        self._switch()
        self._changed()

    def _switch_pods(self) -> None:
        wanted = self._saved.settings.pods
        if self._cgroups is None:
            self._pods = LayerState(IMPOSSIBLE, NO_CGROUPS) if wanted else LayerState(OFF)
            if self._saved.groups:  # no agent was there to undo it when the value changed
                self._pods = LayerState(
                    IMPOSSIBLE, f"cpusets are still narrowed, but {NO_CGROUPS}: switch isolation.pods on, then off"
                )
            return
        try:
            cpusets = self._open_cpusets(self._cgroups)
        except CgroupError as error:
            self._pods = LayerState(IMPOSSIBLE, str(error)) if wanted else LayerState(OFF)
            return
        self._strict = cpusets.strict
        if wanted and not self._conflict:
            self._close(cpusets)
        else:
            self._open(cpusets)
            self._pods = LayerState(CONFLICT, self._conflict) if wanted else LayerState(OFF)

    def _switch_host(self) -> None:
        wanted = self._saved.settings.host
        if wanted != "affinity":
            self._processes.off(self._saved)
        self._host = LayerState(OFF)
        if wanted == "affinity":
            self._host = self._processes.on(self._saved, self._exclusive)
        if self._cgroups is None:
            if wanted == "slices":
                self._host = LayerState(IMPOSSIBLE, NO_CGROUPS)
            return
        if wanted != "slices" and not self._saved.slices:
            return
        try:
            slices = Slices(self._open_cpusets(self._cgroups), self._keep)
        except CgroupError as error:
            self._host = LayerState(IMPOSSIBLE, str(error))
            return
        if wanted == "slices":
            self._host = slices.on(self._saved, self._exclusive)
        else:
            slices.off(self._saved)

    def _switch_irqs(self) -> None:
        wanted, others = self._saved.settings.irqs == "on", self._topology.cpus - self._exclusive
        if self._irqs is None:
            self._interrupts = LayerState(IMPOSSIBLE, "the agent has no access to interrupts") if wanted else LayerState(OFF)
        elif wanted:
            self._interrupts = self._irqs.on(self._saved, self._exclusive, others)
        else:
            self._irqs.off(self._saved, self._exclusive, others)
            self._interrupts = LayerState(OFF)

    def _close(self, cpusets: Cpusets) -> None:
        if self._keepout is not None:
            self._keepout.settle()
            self._pods = LayerState(ON)
            return
        again = bool(self._saved.groups)
        if not again:
            groups = dict(cpusets.walk())
            universe = groups[""] or cpusets.effective()
            if others := keepout.foreign(groups, universe):
                text = f"cpusets of {len(others)} pods or containers have an owner already, {others[0]} among them: remove what sets them"
                self._pods = LayerState(CONFLICT, text)
                return
            own = {path: cpus for path, cpus in groups.items() if not place_of_path(path).pod}
            # Durable before the first write: whoever finds the sets changed must be able to tell what they had been.
            self._keep(universe=universe, groups=own)
        self._keepout = Keepout(cpusets, self._rules, self._holds, self._changed)
        self._keepout.start(again=again)
        self._pods = LayerState(ON)
        log.info(
            "isolation.pods is on: other pods are kept off %s", cpuset.kernel_list(self._rules().closed) or "no core at present"
        )

    def _open(self, cpusets: Cpusets) -> None:
        if self._saved.groups:
            keeper = self._keepout or Keepout(cpusets, self._rules, self._holds, self._changed)
            keeper.undo(self._saved.groups, self._saved.universe)
            self._keep(universe=frozenset(), groups={})
            log.info("isolation.pods is off: cpusets of pods are as they were")
        self._keepout = None

    def _keep(self, **changes: object) -> None:
        self._saved = msgspec.structs.replace(self._saved, **changes)
        state.write(self._file, self._saved, durable=True)

    def _rules(self) -> Rules:
        settings, saved = self._saved.settings, self._saved
        closed = self._exclusive if settings.idle == "reserved" else self._held()
        own = {path: cpus for path, cpus in saved.groups.items() if cpus}
        # Nobody gets CPUs that the kernel isolates by a cpuset of ours which he did not have before: nothing would move him off again.
        return Rules(saved.universe, closed | self._topology.unbalanced, own, own_pod=settings.own_pod, strict=self._strict)

    @property
    def _exclusive(self) -> CpuSet:
        return frozenset().union(*(pool.cpus for pool in self._ledger.layout.pools.values() if pool.exclusive))

    def _held(self) -> CpuSet:
        return self._exclusive & frozenset().union(*(hold.cpus for hold in self._holds()))

    def _holds(self) -> list[Hold]:
        return [Hold(Place(task.pod, task.container), self._ledger.cpus_of(task)) for task in self._ledger.tasks.values()]
