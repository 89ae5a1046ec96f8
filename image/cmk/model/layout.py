"""Pools of a node: a pure function of topology and configuration (rules: CMK 1.5.2's ``init``).

With isolated cores the exclusive pools, then the shared ones, take isolated cores and infra gets every core that is not isolated; isolated
cores that nobody asked for are stranded, with a warning. Without isolated cores all pools take from all cores and infra gets the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import zip_longest

import msgspec

from cmk.model import cpuset
from cmk.model.config import PoolConfig
from cmk.model.cpuset import CpuSet
from cmk.model.topology import Core, Topology


class LayoutError(ValueError):
    """The request does not fit the machine; the text says what was asked, what there is and what would fit."""


class CpuList(msgspec.Struct, frozen=True):
    """The unit of a pool: one physical core of an exclusive pool, or all CPUs a shared pool has on one socket."""

    cpus: CpuSet
    socket: int

    @property
    def name(self) -> str:
        """CMK's name for it: ``3,11``."""
        return cpuset.comma_list(self.cpus)


class Pool(msgspec.Struct, frozen=True):
    """A named set of CPU lists, ordered by first CPU."""

    name: str
    exclusive: bool
    lists: tuple[CpuList, ...]

    @property
    def cpus(self) -> CpuSet:
        """Every CPU of the pool."""
        return frozenset().union(*(item.cpus for item in self.lists))


class Layout(msgspec.Struct, frozen=True):
    """Every pool of a node, and what an operator should know about it."""

    pools: dict[str, Pool]
    warnings: tuple[str, ...] = ()

    def cpus_of(self, pool: str) -> CpuSet:
        """CPUs of a pool; empty when there is no such pool."""
        return self.pools[pool].cpus if pool in self.pools else frozenset()


def compute(topology: Topology, pools: Mapping[str, PoolConfig]) -> Layout:
    """Split the cores into pools; raises LayoutError when they do not suffice."""
    isolated = [core for core in topology.cores if core.isolated]
    free = isolated or list(topology.cores)
    wanted = {name: pool.cores for name, pool in pools.items() if isinstance(pool.cores, int) and pool.cores > 0}
    rest = [name for name, pool in pools.items() if pool.cores == "rest"]
    _check_fits(topology, isolated, wanted, rest)

    made: dict[str, Pool] = {}
    for name in sorted(wanted, key=lambda name: (not pools[name].exclusive, name)):
        taken = _pick(free, wanted[name], pools[name].mode)
        free = [core for core in free if core not in taken]
        made[name] = _pool(name, pools[name].exclusive, taken)
    left = [core for core in topology.cores if not core.isolated] if isolated else free
    for name in rest:
        made[name] = _pool(name, pools[name].exclusive, left)
    return Layout(pools=made, warnings=tuple(_warnings(topology, free if isolated else [])))


def _check_fits(topology: Topology, isolated: list[Core], wanted: Mapping[str, int], rest: list[str]) -> None:
    need = sum(wanted.values())
    asked = " + ".join(f"{name} {count}" for name, count in wanted.items()) or "nothing"
    if isolated:
        if need > len(isolated):
            raise LayoutError(
                f"needs {need} isolated cores ({asked}), has {len(isolated)}; ask for fewer cores or isolate more (isolcpus=)"
            )
        if rest and len(isolated) == len(topology.cores):
            raise LayoutError(f"every core is isolated and none is left for {rest[0]}; leave one core out of isolcpus=")
        return
    keep = 1 if rest else 0
    if need + keep > len(topology.cores):
        others = f" + {rest[0]} 1" if rest else ""
        raise LayoutError(
            f"needs {need + keep} cores ({asked}{others}), has {len(topology.cores)}; "
            f"at most {max(len(topology.cores) - keep, 0)} can go to pools with a number"
        )


def _pick(free: Iterable[Core], count: int, mode: str) -> list[Core]:
    by_socket: dict[int, list[Core]] = {}
    for core in sorted(free, key=lambda core: (core.socket, core.id)):
        by_socket.setdefault(core.socket, []).append(core)
    if mode == "spread":
        ordered = [core for turn in zip_longest(*by_socket.values()) for core in turn if core is not None]
    else:
        ordered = [core for cores in by_socket.values() for core in cores]
    return ordered[:count]


def _pool(name: str, exclusive: bool, cores: Iterable[Core]) -> Pool:
    if exclusive:
        lists = [CpuList(core.cpus, core.socket) for core in cores]
    else:
        sockets: dict[int, set[int]] = {}
        for core in cores:
            sockets.setdefault(core.socket, set()).update(core.cpus)
        lists = [CpuList(frozenset(cpus), socket) for socket, cpus in sockets.items()]
    return Pool(name, exclusive, tuple(sorted(lists, key=lambda item: min(item.cpus))))


def _warnings(topology: Topology, stranded: list[Core]) -> Iterable[str]:
    partly = [core for core in topology.cores if core.partly_isolated]
    if partly:
        cpus = cpuset.kernel_list(cpu for core in partly for cpu in core.cpus)
        yield f"cores with CPUs {cpus} are only partly isolated and count as not isolated"
    if stranded:
        cpus = cpuset.kernel_list(cpu for core in stranded for cpu in core.cpus)
        yield f"isolated CPUs {cpus} are in no pool: nobody asked for them"
