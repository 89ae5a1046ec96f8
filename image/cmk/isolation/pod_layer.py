"""Pods off exclusive cores: the layers that work by cpusets below kubepods, switched as configured and undone from what was saved."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from cmk.host.members import processes_beside
from cmk.host.procfs import Procfs
from cmk.isolation import desired
from cmk.isolation.cgroups import CgroupError, Cpusets
from cmk.isolation.cpusets import Keepout
from cmk.isolation.desired import Hold, Rules
from cmk.isolation.masks import kept
from cmk.isolation.originals import Originals
from cmk.isolation.partitions import Partitions
from cmk.model import cpuset
from cmk.model.cgroup_path import PodContainer, parse_path
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import CONFLICT, IMPOSSIBLE, NO_CGROUPS, OFF, ON, LayerState
from cmk.model.ledger import Ledger
from cmk.model.topology import Topology

log = logging.getLogger(__name__)

NEEDS_PODS = "needs isolation.pods, which is not on"


class PodLayer:
    """``changed`` is called when there is something new to report.

    ``cgroups`` None: this agent has no access to them.
    """

    def __init__(
        self,
        cgroups: Path | None,
        procfs: Procfs,
        ledger: Ledger,
        topology: Topology,
        originals: Originals,
        changed: Callable[[], None],
        open_cpusets: Callable[[Path], Cpusets],
    ) -> None:
        self._cgroups = cgroups
        self._open_cpusets = open_cpusets
        self._procfs = procfs
        self._ledger = ledger
        self._topology = topology
        self._originals = originals
        self._changed = changed
        self._keepout: Keepout | None = None
        self._partitions: Partitions | None = None
        self._growing: asyncio.Handle | None = None
        self._strict = False
        self._pods = self._partition = LayerState(OFF)

    def switch(self, conflict: str) -> None:
        """Make it as the saved settings say. Raises StateError."""
        saved = self._originals.saved
        wanted = saved.settings.pods
        if self._cgroups is None:
            self._pods = LayerState(IMPOSSIBLE, NO_CGROUPS) if wanted else LayerState(OFF)
            if saved.groups:  # no agent was there to undo it when the value changed
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
        wants_partition = saved.settings.partition == "auto"
        if saved.partitioned and not (wanted and wants_partition and not conflict):
            self._end_partitions(cpusets)
        if wanted and not conflict:
            self._close(cpusets, partition=wants_partition)
        else:
            self._open(cpusets)
            self._pods = LayerState(CONFLICT, conflict) if wanted else LayerState(OFF)
        self._grow()

    def settle(self) -> None:
        """Nobody but holders is on cores that are held when this returns."""
        if self._keepout is None:
            return
        if self._partitions is not None:
            self._partitions.let_go(self._keepout.groups, self._holds(), self.exclusive)
            # Whoever holds a core since is pinned only after this, and does not wait for more than he must.
            if self._growing is None:
                self._growing = asyncio.get_running_loop().call_soon(self._grow)
        self._keepout.settle()

    def stop(self) -> None:
        """Leave everything as it is: cores stay closed while no agent looks."""
        if self._growing is not None:
            self._growing.cancel()
        if self._keepout is not None:
            self._keepout.stop()

    def states(self, doubt: str) -> dict[str, LayerState]:
        """How each layer is doing; ``doubt`` is what there is to say about a layer that does well."""
        pods = self._pods
        if self._keepout is not None:
            problem = self._keepout.problem or self._keepout.blind or doubt
            pods = LayerState(IMPOSSIBLE if self._keepout.problem else ON, problem)
        settings = self._originals.saved.settings
        found = {"pods": pods}
        rests = {"ownPod": settings.own_pod, "idle": settings.idle == "reserved", "partition": settings.partition == "auto"}
        for layer, wanted in rests.items():
            found[layer] = LayerState(OFF)
            if wanted:
                found[layer] = LayerState(ON) if pods.state == ON else LayerState(OFF, NEEDS_PODS)
        if found["partition"].state == ON:
            found["partition"] = self._partition
        return found

    def beside(self) -> list[dict[str, object]]:
        """Processes that may use an exclusive core beside its owner, because they are in the owner's container."""
        if self._keepout is None:
            return []
        exclusive = self.exclusive
        found = []
        for task in self._ledger.tasks.values():
            cpus = self._ledger.cpus_of(task)
            if cpus <= exclusive and task.container:
                pids = self._keepout.pids_in(PodContainer(task.pod, task.container))
                for process, name in processes_beside(self._procfs, pids, task.process.pid, cpus):
                    found.append({"pid": process, "name": name, "pod": task.pod, "cpus": cpuset.kernel_list(cpus)})
        return found

    @property
    def drift(self) -> int:
        """Sets that somebody changed and we put right, since this agent started."""
        return self._keepout.drift if self._keepout else 0

    @property
    def exclusive(self) -> CpuSet:
        """CPUs of exclusive pools; in a change of pools those before and after."""
        return self._ledger.exclusive

    def _close(self, cpusets: Cpusets, *, partition: bool) -> None:
        if self._partitions is None and partition:
            self._begin_partitions(Partitions(cpusets, self._procfs, self._topology, self._originals), cpusets)
        if self._keepout is not None:
            self._keepout.settle()
            self._pods = LayerState(ON)
            return
        again = bool(self._originals.saved.groups)
        if not again:
            groups = dict(cpusets.walk())
            universe = groups[""] or cpusets.effective()
            if others := desired.foreign(groups, universe):
                text = f"cpusets of {len(others)} pods or containers have an owner already, {others[0]} among them: remove what sets them"
                self._pods = LayerState(CONFLICT, text)
                return
            if budgets := cpusets.with_realtime():
                text = (
                    f"{budgets[0]} has a budget for realtime, which fewer CPUs would cut: set its cpu.rt_runtime_us to 0, or "
                    "isolation.pods=false"
                )
                self._pods = LayerState(CONFLICT, text)
                return
            own = {path: cpus for path, cpus in groups.items() if not parse_path(path).pod}
            # Durable before the first write: whoever finds the sets changed must be able to tell what they had been.
            self._originals.save_groups(universe, own)
        self._keepout = Keepout(cpusets, self._rules, self._holds, self._changed)
        self._keepout.start(again=again)
        self._pods = LayerState(ON)
        log.info(
            "isolation.pods is on: other pods are kept off %s", cpuset.kernel_list(self._rules().closed) or "no core at present"
        )

    def _open(self, cpusets: Cpusets) -> None:
        saved = self._originals.saved
        if saved.groups:
            keeper = self._keepout or Keepout(cpusets, self._rules, self._holds, self._changed)
            # A pod of cgroup v2 that has no cpuset does not run on what isolcpus isolates; with one given back it would.
            with nullcontext() if self._strict else kept(self._procfs, saved.universe - self._topology.unbalanced):
                keeper.undo(saved.groups, saved.universe)
            self._originals.save_groups(frozenset(), {})
            log.info("isolation.pods is off: cpusets of pods are as they were")
        self._keepout = None

    def _begin_partitions(self, made: Partitions, cpusets: Cpusets) -> None:
        groups = dict(cpusets.walk())
        if why := made.why_not():
            self._partition = LayerState(IMPOSSIBLE, why)
        elif not self._originals.saved.partitioned and (others := made.now(groups)):
            text = f"{next(iter(others)) or 'kubepods'} has exclusive CPUs that somebody else gave it: take them away first"
            self._partition = LayerState(CONFLICT, text)
        else:
            # What an earlier agent made goes on, and keeps its set.
            made.let_go(groups, self._holds(), self.exclusive)
            self._partition = LayerState(ON)
            self._partitions = made

    def _grow(self) -> None:
        """Partitions for who holds cores and has none; the rest of what there was goes."""
        self._growing = None
        if self._keepout is None or self._partitions is None:
            return
        if not self._originals.saved.partitioned:
            self._originals.save_partitioned(partitioned=True)
        left = self._partitions.take(self._keepout, self._holds(), self.exclusive)
        before, self._partition = self._partition, LayerState(ON, "", tuple(left))
        if before != self._partition:
            self._changed()

    def _end_partitions(self, cpusets: Cpusets) -> None:
        made = self._partitions or Partitions(cpusets, self._procfs, self._topology, self._originals)
        problems = made.end(made.now(dict(cpusets.walk())), {})
        for problem in problems:
            log.error("isolation.partition, undone: %s", problem)
        self._partitions = None
        if not problems:
            self._originals.save_partitioned(partitioned=False)

    def _rules(self) -> Rules:
        saved = self._originals.saved
        settings = saved.settings
        closed = self.exclusive if settings.idle == "reserved" else self._held()
        own = {path: cpus for path, cpus in saved.groups.items() if cpus}
        alone = frozenset(self._partitions.alone) if self._partitions else frozenset()
        # Nobody gets CPUs that the kernel isolates by a cpuset of ours which he did not have before: nothing would move him off again.
        return Rules(saved.universe, closed | self._topology.unbalanced, own, settings.own_pod, self._strict, alone)

    def _held(self) -> CpuSet:
        return self.exclusive & frozenset().union(*(hold.cpus for hold in self._holds()))

    def _holds(self) -> list[Hold]:
        return [Hold(PodContainer(task.pod, task.container), self._ledger.open_to(task)) for task in self._ledger.tasks.values()]
