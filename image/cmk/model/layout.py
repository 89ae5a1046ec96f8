"""Pools of a node: a pure function of topology and configuration (rules: CMK 1.5.2's ``init``, and more pools).

Named cores and CPUs go first. Then exclusive pools, then shared ones, take whole cores: with isolated cores from those alone, without
from all; ``infra`` and ``exclusive-non-isolcpus`` take cores that are not isolated. ``infra`` gets every CPU that is left and not isolated;
isolated cores that nobody asked for are stranded, with a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cmk.model import cpuset
from cmk.model.choice import comma_list
from cmk.model.config import AUTO, REMAINING, REST, PoolConfig, Section, with_preference
from cmk.model.cores import Cores, LayoutError
from cmk.model.cpuset import CpuSet
from cmk.model.topology import Core, Topology

__all__ = ["CpuList", "Layout", "LayoutError", "Pool", "SavedLayout", "compute"]

INFRA, SHARED, EXCLUSIVE, NON_ISOLCPUS = "infra", "shared", "exclusive", "exclusive-non-isolcpus"
# Whatever isolcpus says, these take no isolated core by number.
_NOT_ISOLATED = frozenset({INFRA, NON_ISOLCPUS})


class CpuList(msgspec.Struct, frozen=True):
    """The unit of a pool: one physical core of an exclusive pool, or all CPUs a shared pool has on one socket."""

    cpus: CpuSet
    socket: int

    @property
    def name(self) -> str:
        """CMK's name for it: ``3,11``."""
        return comma_list(self.cpus)


class Pool(msgspec.Struct, frozen=True):
    """A named set of CPU lists, ordered by first CPU."""

    name: str
    exclusive: bool
    lists: tuple[CpuList, ...]

    @property
    def cpus(self) -> CpuSet:
        """Every CPU of the pool."""
        return frozenset().union(*(item.cpus for item in self.lists))

    def named(self, names: Iterable[str]) -> list[CpuList]:
        """Lists with these names, in the pool's order."""
        wanted = set(names)
        return [item for item in self.lists if item.name in wanted]


class Layout(msgspec.Struct, frozen=True):
    """Every pool of a node, and what an operator should know about it."""

    pools: dict[str, Pool]
    warnings: tuple[str, ...] = ()

    def cpus_of(self, pool: str) -> CpuSet:
        """CPUs of a pool; empty when there is no such pool."""
        return self.pools[pool].cpus if pool in self.pools else frozenset()


class SavedLayout(msgspec.Struct, frozen=True):
    """A layout and what it was made from: it outlives agents and reboots, and changes only on purpose."""

    layout: Layout
    section: Section
    scope: str
    topology: Topology


def for_section(section: Section, topology: Topology, labels: Mapping[str, str], outside: CpuSet) -> Layout:
    """The layout that a node's configuration asks for. ``outside`` are CPUs that no container may use: what ``reserved: auto`` means.

    Raises ConfigError, LayoutError.
    """
    reserved = outside if section.reserved == AUTO else cpuset.parse(section.reserved)
    return compute(topology, with_preference(section.pools, labels), reserved)


def compute(topology: Topology, pools: Mapping[str, PoolConfig], reserved: CpuSet = frozenset()) -> Layout:
    """Split the CPUs that are not reserved into pools; raises LayoutError when they do not suffice."""
    asked = {name: pools[name] for name in sorted(pools, key=lambda name: _turn(name, pools[name])) if not pools[name].absent}
    if INFRA not in asked:
        raise LayoutError(
            "pool infra is missing or has 0 cores: the agent and whatever is in no pool run there; let it have the rest"
        )
    cores = Cores(topology, reserved)
    for name, pool in asked.items():
        _take_named(cores, name, pool)
    _take_counted(cores, asked)
    _take_rest(cores, asked)
    made = {name: _pool(topology, name, pool.exclusive, cores.taken[name]) for name, pool in asked.items()}
    if not made[INFRA].lists:
        raise LayoutError(_no_infra(topology, asked))
    return Layout(pools=made, warnings=tuple(_warnings(topology, cores, asked, reserved)))


def _turn(name: str, pool: PoolConfig) -> tuple[bool, bool, bool, str]:
    """Exclusive before shared before infra; the pool ``exclusive`` before others of its kind."""
    return name == INFRA, not pool.exclusive, name != EXCLUSIVE, name


def _take_named(cores: Cores, name: str, pool: PoolConfig) -> None:
    ids, cpus = pool.named_cores, pool.named_cpus
    if ids is not None:
        cores.take_named(name, ids, whole=True)
    elif cpus is not None:
        cores.take_cpus(name, cpus, whole=pool.exclusive)
    else:
        return
    if name == NON_ISOLCPUS:
        isolated = [core.id for core in cores.topology.cores if core.isolated_cpus & cores.taken[name]]
        if isolated:
            raise LayoutError(
                f"cores {cpuset.kernel_list(isolated)} asked for {name} are isolated (isolcpus): name cores that are not, or put them "
                f"into pool {EXCLUSIVE}"
            )


def _take_counted(cores: Cores, asked: Mapping[str, PoolConfig]) -> None:
    """Pools that ask for a number of cores, or for all that remain, out of one of the two kinds of cores."""
    for isolated in (True, False) if cores.topology.has_isolated else (None,):
        here = {name: pool for name, pool in asked.items() if isolated in (None, name not in _NOT_ISOLATED)}
        wanted = {name: count for name, pool in here.items() if (count := pool.count) is not None}
        remaining = [name for name, pool in here.items() if pool.cores == REMAINING]
        # Infra that takes the rest needs a core left over, unless cores of the other kind or parts of cores will be its.
        keep = 1 if INFRA in here and asked[INFRA].cores == REST and not cores.scraps() else 0
        free = len(cores.free(isolated))
        if not wanted and not remaining:
            continue
        if sum(wanted.values()) + keep + (len(remaining) > 0) > free:
            raise LayoutError(_too_many(wanted, keep, remaining, free, isolated))
        if len(remaining) > 1:
            raise LayoutError(f"pools {' and '.join(remaining)} both ask for all remaining cores (-1): give one of them a number")
        wanted |= dict.fromkeys(remaining, free - sum(wanted.values()) - keep)
        for name in (name for name in here if name in wanted):
            by_socket = here[name].cores
            parts = by_socket if isinstance(by_socket, dict) else {"": wanted[name]}
            for socket, count in sorted(parts.items()):
                cores.take(name, count, here[name], isolated=isolated, socket=socket)


def _take_rest(cores: Cores, asked: Mapping[str, PoolConfig]) -> None:
    rest = [name for name, pool in asked.items() if pool.cores == REST]
    if len(rest) > 1:
        raise LayoutError(f"pools {' and '.join(sorted(rest))} both ask for the rest: give one of them a number")
    for name in rest:
        left = cores.left
        if name == INFRA and cores.topology.has_isolated:
            left = frozenset().union(*(core.cpus for core in cores.topology.cores if not core.isolated)) & left
        if asked[name].exclusive:
            left = frozenset().union(*(core.cpus for core in cores.topology.cores if core.cpus <= left))
        cores.take_cpus(name, left, whole=asked[name].exclusive)


def _too_many(wanted: Mapping[str, int], keep: int, remaining: list[str], free: int, isolated: bool | None) -> str:
    kind = {True: "isolated ", False: "non-isolated ", None: ""}[isolated]
    parts = [f"{name} {count}" for name, count in wanted.items()]
    parts += [f"{name} 1 or more" for name in remaining] + ["infra 1"] * keep
    need = sum(wanted.values()) + keep + (len(remaining) > 0)
    text = f"needs {need} {kind}cores ({' + '.join(parts)}), has {free}; "
    if isolated:
        return f"{text}ask for fewer cores or isolate more (isolcpus=)"
    return f"{text}at most {max(free - keep, 0)} can go to pools with a number"


def _no_infra(topology: Topology, asked: Mapping[str, PoolConfig]) -> str:
    if all(core.isolated for core in topology.cores):
        return f"every core is isolated and none is left for {INFRA}; leave one core out of isolcpus="
    others = ", ".join(name for name in asked if name != INFRA)
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


def _warnings(topology: Topology, cores: Cores, asked: Mapping[str, PoolConfig], reserved: CpuSet) -> Iterable[str]:
    def cpus_in(found: Iterable[Core]) -> str:
        return cpuset.kernel_list(cpu for core in found for cpu in core.cpus)

    if partly := [core for core in topology.cores if core.partly_isolated]:
        yield f"cores with CPUs {cpus_in(partly)} are only partly isolated and count as not isolated"
    if stranded := cores.left:
        isolated = "isolated " if any(core.isolated_cpus & stranded for core in topology.cores) else ""
        yield f"{isolated}CPUs {cpuset.kernel_list(stranded)} are in no pool: nobody asked for them"
    if offline := reserved - topology.cpus:
        yield f"reserved CPUs {cpuset.kernel_list(offline)} are not online"
    for name, pool in asked.items():
        taken = cores.taken[name]
        if not pool.exclusive and name != INFRA and len(taken & topology.unbalanced) > 1:
            yield (
                f"pool {name} has CPUs {cpuset.kernel_list(taken & topology.unbalanced)} that isolcpus took out of scheduling: its tasks "
                "stay on the CPU they started on, usually the same for all; name cores that are not isolated, or pin threads yourself"
            )
        if pool.exclusive and name != NON_ISOLCPUS and pool.count is None and topology.isolated_from:
            bare = [core for core in topology.cores if core.cpus <= taken and not core.isolated]
            if bare:
                yield f"pool {name} has CPUs {cpus_in(bare)}, which are not isolated"
        if pool.exclusive and topology.nohz_full and (ticking := taken - topology.nohz_full):
            yield f"pool {name} has CPUs {cpuset.kernel_list(ticking)} with a periodic tick: nohz_full= leaves them out"
    yield from cores.notes
