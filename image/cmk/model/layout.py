"""The layout of a node: its pools as a pure function of topology and configuration (the rules of CMK 1.5.2's ``init``, for more pools).

Named cores and CPUs are assigned first. Then exclusive pools, then shared pools get whole cores: only isolated ones if the node has any,
else any; ``infra`` and ``exclusive-non-isolcpus`` get cores that are not isolated. ``infra`` gets every remaining CPU that is not
isolated; isolated cores that no pool asks for stay in no pool, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property

import msgspec

from cmk.model import cpuset
from cmk.model.choice import comma_list
from cmk.model.config import AUTO, REMAINING, REST, PoolConfig, Section, with_preference
from cmk.model.cores import CoreAssignment, LayoutError
from cmk.model.cpuset import CpuSet
from cmk.model.topology import Core, Topology

__all__ = ["CpuList", "Layout", "LayoutError", "Pool", "SavedLayout", "compute"]

INFRA, SHARED, EXCLUSIVE, NON_ISOLCPUS = "infra", "shared", "exclusive", "exclusive-non-isolcpus"
# Pools that never get an isolated core by number, even on a node with isolcpus.
_NOT_ISOLATED = frozenset({INFRA, NON_ISOLCPUS})


class CpuList(msgspec.Struct, frozen=True, dict=True):
    """What one task of a pool holds: one physical core of an exclusive pool, or all CPUs that a shared pool has on one socket."""

    cpus: CpuSet
    socket: int

    @cached_property
    def name(self) -> str:
        """The list's name, as CMK wrote it: ``3,11``."""
        return comma_list(self.cpus)


class Pool(msgspec.Struct, frozen=True, dict=True):
    """A pool: its name, kind and CPU lists, ordered by first CPU."""

    name: str
    exclusive: bool
    lists: tuple[CpuList, ...]

    @cached_property
    def cpus(self) -> CpuSet:
        """Every CPU of the pool."""
        return frozenset().union(*(item.cpus for item in self.lists))

    @cached_property
    def sockets(self) -> Mapping[str, int]:
        """The socket of each list by its name, in the pool's order."""
        return {item.name: item.socket for item in self.lists}

    def named(self, names: Iterable[str]) -> list[CpuList]:
        """Lists with these names, in the pool's order."""
        return [self.lists[place] for place in sorted({self._places[name] for name in names if name in self._places})]

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {item.name: place for place, item in enumerate(self.lists)}


class Layout(msgspec.Struct, frozen=True, dict=True):
    """Every pool of a node, and warnings for the operator."""

    pools: dict[str, Pool]
    warnings: tuple[str, ...] = ()

    def cpus_of(self, pool: str) -> CpuSet:
        """CPUs of a pool; empty when there is no such pool."""
        return self.pools[pool].cpus if pool in self.pools else frozenset()

    @cached_property
    def exclusive(self) -> CpuSet:
        """CPUs of all exclusive pools."""
        return frozenset().union(*(pool.cpus for pool in self.pools.values() if pool.exclusive))


class SavedLayout(msgspec.Struct, frozen=True):
    """A layout and what it was computed from: it outlives agents and reboots, and changes only with the configuration."""

    layout: Layout
    section: Section
    scope: str
    topology: Topology


def for_section(section: Section, topology: Topology, labels: Mapping[str, str], outside: CpuSet) -> Layout:
    """The layout that a section asks for. ``outside`` are CPUs that no container may use, the meaning of ``reserved: auto``.

    Raises ConfigError, LayoutError.
    """
    reserved = outside if section.reserved == AUTO else cpuset.parse(section.reserved)
    return compute(topology, with_preference(section.pools, labels), reserved)


def compute(topology: Topology, pools: Mapping[str, PoolConfig], reserved: CpuSet = frozenset()) -> Layout:
    """Assign the CPUs that are not reserved to pools; raises LayoutError when they do not suffice."""
    requests = {name: pools[name] for name in sorted(pools, key=lambda name: _rank(name, pools[name])) if not pools[name].absent}
    if INFRA not in requests:
        raise LayoutError(
            "pool infra is missing or has 0 cores: the agent and all processes in no pool run there; give it the rest"
        )
    cores = CoreAssignment(topology, reserved)
    for name, pool in requests.items():
        _assign_named(cores, name, pool)
    _assign_numbers(cores, requests)
    _assign_rest(cores, requests)
    layout = {name: _pool(topology, name, pool.exclusive, cores.assigned[name]) for name, pool in requests.items()}
    if not layout[INFRA].lists:
        raise LayoutError(_no_infra(topology, requests))
    return Layout(pools=layout, warnings=tuple(_warnings(topology, cores, requests, reserved)))


def _rank(name: str, pool: PoolConfig) -> tuple[bool, bool, bool, str]:
    """Sort key: exclusive pools before shared ones before infra; pool ``exclusive`` before other exclusive pools."""
    return name == INFRA, not pool.exclusive, name != EXCLUSIVE, name


def _assign_named(cores: CoreAssignment, name: str, pool: PoolConfig) -> None:
    ids, cpus = pool.named_cores, pool.named_cpus
    if ids is not None:
        cores.assign_cores(name, ids, whole=True)
    elif cpus is not None:
        cores.assign_cpus(name, cpus, whole=pool.exclusive)
    else:
        return
    if name == NON_ISOLCPUS:
        isolated = [core.id for core in cores.topology.cores if core.isolated_cpus & cores.assigned[name]]
        if isolated:
            raise LayoutError(
                f"cores {cpuset.kernel_list(isolated)} of pool {name} are isolated (isolcpus): name cores that are not, or put them "
                f"into pool {EXCLUSIVE}"
            )


def _assign_numbers(cores: CoreAssignment, requests: Mapping[str, PoolConfig]) -> None:
    """Assign pools that ask for a number of cores, or for all remaining ones: isolated cores first, then the others."""
    for isolated in (True, False) if cores.topology.has_isolated else (None,):
        eligible = {name: pool for name, pool in requests.items() if isolated in (None, name not in _NOT_ISOLATED)}
        counts = {name: count for name, pool in eligible.items() if (count := pool.count) is not None}
        remaining = [name for name, pool in eligible.items() if pool.cores == REMAINING]
        # Keep one core for infra if it takes the rest, unless other cores or partial cores will fall to it.
        for_infra = 1 if INFRA in eligible and requests[INFRA].cores == REST and not cores.free_cpus_of_partial_cores() else 0
        free = len(cores.free_cores(isolated))
        if not counts and not remaining:
            continue
        if sum(counts.values()) + for_infra + (len(remaining) > 0) > free:
            raise LayoutError(_too_many(counts, for_infra, remaining, free, isolated))
        if len(remaining) > 1:
            raise LayoutError(f"pools {' and '.join(remaining)} both ask for all remaining cores (-1): give one of them a number")
        counts |= dict.fromkeys(remaining, free - sum(counts.values()) - for_infra)
        for name in (name for name in eligible if name in counts):
            by_socket = eligible[name].cores
            parts = by_socket if isinstance(by_socket, dict) else {"": counts[name]}
            for socket, count in sorted(parts.items()):
                cores.assign_number(name, count, eligible[name], isolated=isolated, socket=socket)


def _assign_rest(cores: CoreAssignment, requests: Mapping[str, PoolConfig]) -> None:
    rest = [name for name, pool in requests.items() if pool.cores == REST]
    if len(rest) > 1:
        raise LayoutError(f"pools {' and '.join(sorted(rest))} both ask for the rest: give one of them a number")
    for name in rest:
        cpus = cores.free_cpus
        if name == INFRA and cores.topology.has_isolated:
            cpus = frozenset().union(*(core.cpus for core in cores.topology.cores if not core.isolated)) & cpus
        if requests[name].exclusive:
            cpus = frozenset().union(*(core.cpus for core in cores.topology.cores if core.cpus <= cpus))
        cores.assign_cpus(name, cpus, whole=requests[name].exclusive)


def _too_many(counts: Mapping[str, int], for_infra: int, remaining: list[str], free: int, isolated: bool | None) -> str:
    kind = {True: "isolated ", False: "non-isolated ", None: ""}[isolated]
    parts = [f"{name} {count}" for name, count in counts.items()]
    parts += [f"{name} 1 or more" for name in remaining] + ["infra 1"] * for_infra
    need = sum(counts.values()) + for_infra + (len(remaining) > 0)
    text = f"needs {need} {kind}cores ({' + '.join(parts)}), has {free}; "
    if isolated:
        return f"{text}ask for fewer cores or isolate more (isolcpus=)"
    return f"{text}at most {max(free - for_infra, 0)} can go to pools with a number"


def _no_infra(topology: Topology, requests: Mapping[str, PoolConfig]) -> str:
    if all(core.isolated for core in topology.cores):
        return f"every core is isolated and none is left for {INFRA}; leave one core out of isolcpus="
    others = ", ".join(name for name in requests if name != INFRA)
    return f"no CPU is left for {INFRA}: {others} and reserved CPUs take all; ask for at least one core less"


def _pool(topology: Topology, name: str, exclusive: bool, cpus: CpuSet) -> Pool:
    if exclusive:
        lists = [CpuList(part, core.socket) for core in topology.cores if (part := core.cpus & cpus)]
    else:
        sockets: dict[int, set[int]] = {}
        for core in topology.cores:
            if part := core.cpus & cpus:
                sockets.setdefault(core.socket, set()).update(part)
        lists = [CpuList(frozenset(part), socket) for socket, part in sockets.items()]
    return Pool(name, exclusive, tuple(sorted(lists, key=lambda item: min(item.cpus))))


def _warnings(topology: Topology, cores: CoreAssignment, requests: Mapping[str, PoolConfig], reserved: CpuSet) -> Iterable[str]:
    def cpus_in(some: Iterable[Core]) -> str:
        return cpuset.kernel_list(cpu for core in some for cpu in core.cpus)

    yield from topology.warnings
    if partly := [core for core in topology.cores if core.partly_isolated]:
        yield f"cores with CPUs {cpus_in(partly)} are only partly isolated and count as not isolated"
    if stranded := cores.free_cpus:
        isolated = "isolated " if any(core.isolated_cpus & stranded for core in topology.cores) else ""
        yield f"{isolated}CPUs {cpuset.kernel_list(stranded)} are in no pool: no pool asks for them"
    if offline := reserved - topology.cpus:
        yield f"reserved CPUs {cpuset.kernel_list(offline)} are not online"
    for name, pool in requests.items():
        assigned = cores.assigned[name]
        if not pool.exclusive and name != INFRA and len(assigned & topology.unbalanced) > 1:
            yield (
                f"pool {name} has CPUs {cpuset.kernel_list(assigned & topology.unbalanced)} that isolcpus removes from load balancing: its "
                "tasks stay on the CPU they started on, usually the same for all; name cores that are not isolated, or pin threads yourself"
            )
        if pool.exclusive and name != NON_ISOLCPUS and pool.count is None and topology.isolated_from:
            not_isolated = [core for core in topology.cores if core.cpus <= assigned and not core.isolated]
            if not_isolated:
                yield f"pool {name} has CPUs {cpus_in(not_isolated)}, which are not isolated"
        if pool.exclusive and topology.nohz_full and (ticking := assigned - topology.nohz_full):
            yield f"pool {name} has CPUs {cpuset.kernel_list(ticking)} with a periodic tick: nohz_full= does not include them"
    if len(topology.cores) == len(topology.sockets) > 1:
        for name, pool in requests.items():
            if not pool.exclusive and (count := sum(core.cpus <= cores.assigned[name] for core in topology.cores)) > 1:
                yield (
                    f"pool {name} has {count} lists of one core each, for every socket of this machine has one core: each of its tasks "
                    "gets one core; give the virtual machine fewer sockets with more cores"
                )
    yield from cores.warnings
