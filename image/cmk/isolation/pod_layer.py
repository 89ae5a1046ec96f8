"""The layers that work by cpusets below kubepods (``pods``, ``ownPod``, ``idle``, ``partition``), as configured or undone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Set
from contextlib import nullcontext
from pathlib import Path

from cmk.host.members import processes_beside
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.isolation import desired, masks
from cmk.isolation.cgroups import CgroupError, CpusetTree
from cmk.isolation.cpusets import PodCpusets
from cmk.isolation.desired import CpusetRules, Groups, Hold
from cmk.isolation.desired_cache import DesiredCpusets
from cmk.isolation.originals import Originals
from cmk.isolation.partitions import EXCLUSIVE, Partitions
from cmk.model import cpuset
from cmk.model.cgroup_path import PodContainer, parse_path
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import CONFLICT, IMPOSSIBLE, NO_CGROUPS, OFF, ON, LayerState
from cmk.model.ledger import Ledger
from cmk.model.topology import Topology

log = logging.getLogger(__name__)

NEEDS_PODS = "needs isolation.pods, which is not on"


class PodLayer:
    """Keeps other pods off exclusive cores. ``cgroups`` None: this agent has no access to cgroups.

    ``report_changed`` is called when a layer's state or the drift has changed.
    """

    def __init__(
        self,
        cgroups: Path | None,
        procfs: Procfs,
        ledger: Ledger,
        topology: Topology,
        originals: Originals,
        report_changed: Callable[[], None],
        open_tree: Callable[[Path], CpusetTree],
    ) -> None:
        self._cgroups = cgroups
        self._open_tree = open_tree
        self._procfs = procfs
        self._ledger = ledger
        self._topology = topology
        self._originals = originals
        self._report_changed = report_changed
        self._cpusets: PodCpusets | None = None
        self._partitions: Partitions | None = None
        self._making_partitions: asyncio.Handle | None = None
        self._desired = DesiredCpusets()
        self._strict = False
        self._pods = self._partition = LayerState(OFF)

    def apply(self, conflict: str) -> None:
        """Bring the layers to their saved settings; ``conflict`` names another manager of CPUs, if there is one.

        The pods' layer is impossible when the originals cannot be saved; what is restored is restored again while it cannot be forgotten.
        """
        saved = self._originals.saved
        wanted = saved.settings.pods
        if self._cgroups is None:
            self._pods = LayerState(IMPOSSIBLE, NO_CGROUPS) if wanted else LayerState(OFF)
            if saved.groups:  # the value changed while no agent ran that could have undone the layer
                self._pods = LayerState(
                    IMPOSSIBLE, f"cpusets are still narrowed, but {NO_CGROUPS}: switch isolation.pods on, then off"
                )
            return
        try:
            tree = self._open_tree(self._cgroups)
        except CgroupError as error:
            self._pods = LayerState(IMPOSSIBLE, str(error)) if wanted else LayerState(OFF)
            return
        self._strict = tree.strict
        wants_partition = saved.settings.partition == "auto"
        if saved.partitioned and not (wanted and wants_partition and not conflict):
            self._switch_partitions_off(tree)
        if wanted and not conflict:
            if wants_partition and self._partitions is None:
                self._switch_partitions_on(tree)
            self._switch_on(tree)
        else:
            self._switch_off(tree)
            self._pods = LayerState(CONFLICT, conflict) if wanted else LayerState(OFF)
        self._make_partitions()

    def enforce(self) -> None:
        """On return only their holders can use held cores."""
        if self._cpusets is None:
            return
        if self._partitions is not None:
            self._partitions.end_unheld(self._cpusets.groups, self._holds(), self.exclusive)
            # The requesting task is pinned when this returns: create partitions later, so that it does not wait for them.
            if self._making_partitions is None:
                self._making_partitions = asyncio.get_running_loop().call_soon(self._make_partitions)
        self._cpusets.enforce()

    def stop(self) -> None:
        """Stop enforcing, and leave everything as it is: cores stay closed while no agent runs."""
        if self._making_partitions is not None:
            self._making_partitions.cancel()
        if self._cpusets is not None:
            self._cpusets.stop()

    def states(self, doubt: str) -> dict[str, LayerState]:
        """The state of each layer; ``doubt`` is the reason shown for ``pods`` when it has no problem."""
        pods = self._pods
        if self._cpusets is not None:
            reason = self._cpusets.problem or self._cpusets.unwatched or doubt
            pods = LayerState(IMPOSSIBLE if self._cpusets.problem else ON, reason)
        settings = self._originals.saved.settings
        states = {"pods": pods}
        dependent = {"ownPod": settings.own_pod, "idle": settings.idle == "reserved", "partition": settings.partition == "auto"}
        for layer, wanted in dependent.items():
            states[layer] = LayerState(OFF)
            if wanted:
                states[layer] = LayerState(ON) if pods.state == ON else LayerState(OFF, NEEDS_PODS)
        if states["partition"].state == ON:
            states["partition"] = self._partition
        return states

    def beside_tasks(self) -> list[dict[str, object]]:
        """Processes that may use an exclusive core beside its owner because they run in the owner's container."""
        if self._cpusets is None:
            return []
        exclusive = self.exclusive
        processes = []
        for task in self._ledger.tasks.values():
            cpus = self._ledger.cpus_of(task)
            if cpus <= exclusive and task.container:
                pids = self._cpusets.pids_in(PodContainer(task.pod, task.container))
                for pid, name in processes_beside(self._procfs, pids, task.process.pid, cpus):
                    processes.append({"pid": pid, "name": name, "pod": task.pod, "cpus": cpuset.kernel_list(cpus)})
        return processes

    @property
    def drift(self) -> int:
        """How many cpusets another program changed that this agent has put right."""
        return self._cpusets.drift if self._cpusets else 0

    @property
    def exclusive(self) -> CpuSet:
        """CPUs of exclusive pools; during a change of pools those before and after."""
        return self._ledger.exclusive

    def _switch_on(self, tree: CpusetTree) -> None:
        if self._cpusets is not None:
            self._cpusets.enforce()
            self._pods = LayerState(ON)
            return
        resumed = bool(self._originals.saved.groups)
        if not resumed:
            groups = dict(tree.walk())
            universe = groups[""] or tree.effective()
            if conflict := _conflict_in(tree, groups, universe):
                self._pods = LayerState(CONFLICT, conflict)
                return
            # Saved durably before the first write: the next agent can tell narrowed cpusets from original ones only by this.
            own = {path: cpus for path, cpus in groups.items() if not parse_path(path).pod}
            try:
                self._originals.save_groups(universe, own)
            except StateError as error:
                self._pods = LayerState(IMPOSSIBLE, str(error))
                log.error("isolation.pods is impossible: %s", error)
                return
        self._cpusets = self._enforcing(tree)
        self._cpusets.start(resumed=resumed)
        self._pods = LayerState(ON)
        closed = cpuset.kernel_list(self._rules().closed) or "no core at present"
        log.info("isolation.pods is on: other pods are kept off %s", closed)

    def _switch_off(self, tree: CpusetTree) -> None:
        saved = self._originals.saved
        if saved.groups:
            cpusets = self._cpusets or self._enforcing(tree)
            # On cgroup v2 a pod without its own cpuset never ran on isolcpus CPUs; restoring the parent's set would let it.
            with nullcontext() if self._strict else masks.preserved(self._procfs, saved.universe - self._topology.unbalanced):
                cpusets.restore(saved.groups, saved.universe)
            self._cpusets = None
            self._forget(lambda: self._originals.save_groups(frozenset(), {}))
            log.info("isolation.pods is off: cpusets of pods are as they were")
        self._cpusets = None

    def _switch_partitions_on(self, tree: CpusetTree) -> None:
        partitions = Partitions(tree, self._procfs, self._topology, self._originals)
        groups = dict(tree.walk())
        if why := partitions.why_impossible():
            self._partition = LayerState(IMPOSSIBLE, why)
        elif not self._originals.saved.partitioned and (others := partitions.existing(groups)):
            group = next(iter(others)) or "kubepods"
            text = (
                f"{group} has exclusive CPUs that another program gave it: empty its {EXCLUSIVE}, or set isolation.partition=off"
            )
            self._partition = LayerState(CONFLICT, text)
        else:
            # Before the first enforcement, so that partitions of an earlier agent keep their cpusets.
            partitions.end_unheld(groups, self._holds(), self.exclusive)
            self._partition = LayerState(ON)
            self._partitions = partitions

    def _make_partitions(self) -> None:
        """Make partitions of all containers that can be, and end those that can no longer."""
        self._making_partitions = None
        if self._cpusets is None or self._partitions is None or self._ledger.is_changing:
            return  # while pools change, containers hold what others come from or go to; the end of the change makes them
        try:
            self._originals.save_partitioned(partitioned=True)
        except StateError as error:
            self._partition = LayerState(IMPOSSIBLE, str(error))
            log.error("isolation.partition is impossible: %s", error)
            return
        problems = self._partitions.make(self._cpusets, self._holds(), self.exclusive)
        before, self._partition = self._partition, LayerState(ON, "", tuple(problems))
        if before != self._partition:
            self._report_changed()

    def _switch_partitions_off(self, tree: CpusetTree) -> None:
        partitions = self._partitions or Partitions(tree, self._procfs, self._topology, self._originals)
        problems = partitions.end(partitions.existing(dict(tree.walk())), {})
        for problem in problems:
            log.error("isolation.partition is not undone: %s", problem)
        self._partitions = None
        if not problems:
            self._forget(lambda: self._originals.save_partitioned(partitioned=False))

    def _forget(self, save: Callable[[], None]) -> None:
        try:
            save()
        except StateError as error:
            log.error("%s", error)

    def _enforcing(self, tree: CpusetTree) -> PodCpusets:
        self._desired = DesiredCpusets()
        return PodCpusets(tree, self._wanted_for, self._report_changed, lambda: self._desired.children)

    def _wanted_for(self, groups: Groups) -> tuple[Mapping[str, CpuSet], Set[str]]:
        return self._desired.update(groups, self._rules(), {hold.runs_in: hold.cpus for hold in self._holds()})

    def _rules(self) -> CpusetRules:
        saved = self._originals.saved
        settings = saved.settings
        closed = self.exclusive if settings.idle == "reserved" else self._held()
        own = {path: cpus for path, cpus in saved.groups.items() if cpus}
        partitions = frozenset(self._partitions.current) if self._partitions else frozenset()
        # Never add isolcpus CPUs to a cpuset: the scheduler would not move tasks off them again.
        return CpusetRules(saved.universe, closed | self._topology.unbalanced, own, settings.own_pod, self._strict, partitions)

    def _held(self) -> CpuSet:
        return self.exclusive & frozenset().union(*(hold.cpus for hold in self._holds()))

    def _holds(self) -> list[Hold]:
        return [Hold(container, cpus) for container, cpus in self._ledger.open_in_containers().items()]


def _conflict_in(tree: CpusetTree, groups: Groups, universe: CpuSet) -> str:
    """Why cpusets of pods must not be narrowed, before cmk has changed any; empty when they may."""
    if others := desired.managed_by_others(groups, universe):
        return (
            f"another program manages the cpusets of {len(others)} pods or containers, {others[0]} among them: remove it from the node, "
            "or set isolation.pods=false"
        )
    if budgets := tree.with_realtime_budget():
        return (
            f"{budgets[0]} has a realtime budget, which a cpuset with fewer CPUs would cut: set its cpu.rt_runtime_us to 0, or set "
            "isolation.pods=false"
        )
    return ""
