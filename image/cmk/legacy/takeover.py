"""State that kcm and CMK left behind, read as a layout of ours: taken over when it matches the machine, refused with reasons otherwise."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cmk.model import cpuset
from cmk.model.choice import OLD_NAMES
from cmk.model.config import PoolConfig
from cmk.model.cpuset import CpuSet, CpuSetError
from cmk.model.errors import CmkError
from cmk.model.layout import INFRA, CpuList, Layout, Pool
from cmk.model.topology import Topology

_EXCLUSIVE_IN_1_5 = frozenset({"exclusive", "exclusive-non-isolcpus"})


class AdoptionError(CmkError):
    """Old state that contradicts the machine or itself; the text names pool and list."""


class OldPool(msgspec.Struct, frozen=True):
    """One pool as it was kept: CPU lists as text, each with the host pids that held it."""

    exclusive: bool
    lists: dict[str, tuple[int, ...]]


class OldTask(msgspec.Struct, frozen=True):
    """A pid on a list of the taken-over layout. ``lists`` are our names, ``cpus`` what the old list had."""

    pid: int
    pool: str
    lists: tuple[str, ...]
    cpus: CpuSet


class TakenOver(msgspec.Struct, frozen=True):
    """The layout that was found and who held what; whether those pids still live is for the host to say."""

    layout: Layout
    tasks: tuple[OldTask, ...]


def parse_configmap(data: object) -> dict[str, OldPool]:
    """The decoded YAML of CMK 1.5's ``cmk-config-<node>``: pool → socket → list → pids. Raises AdoptionError."""
    if not isinstance(data, Mapping) or not data:
        raise AdoptionError("the ConfigMap holds no pools")
    pools = {}
    for name, sockets in data.items():
        lists: dict[str, tuple[int, ...]] = {}
        by_socket = sockets or {}
        if not isinstance(by_socket, Mapping) or not all(isinstance(found or {}, Mapping) for found in by_socket.values()):
            raise AdoptionError(f"pool {name} of the ConfigMap is not made of sockets and CPU lists")
        for found in by_socket.values():
            for text, pids in (found or {}).items():
                lists[str(text)] = _pids(f"{name}:{text}", [str(pid) for pid in pids or []])
        pools[str(name)] = OldPool(str(name) in _EXCLUSIVE_IN_1_5, lists)
    return pools


def parse_tasks(place: str, text: str) -> tuple[int, ...]:
    """The ``tasks`` file of a list: pids with commas between, nothing when it is free. Raises AdoptionError."""
    return _pids(place, [word for word in text.replace("\n", ",").split(",") if word.strip()])


def take_over(old: Mapping[str, OldPool], topology: Topology) -> TakenOver:
    """Our layout of the same lists; raises AdoptionError with every contradiction at once."""
    problems: list[str] = []
    seen: dict[int, str] = {}
    pools: dict[str, Pool] = {}
    tasks: list[OldTask] = []
    for name, pool in sorted(old.items()):
        ours = OLD_NAMES.get(name, name)
        cpus_of: dict[str, CpuSet] = {}
        for text in pool.lists:
            try:
                cpus_of[text] = cpuset.parse(text)
            except CpuSetError as error:
                problems.append(f"{name}:{text}: {error}")
        for text, cpus in cpus_of.items():
            problems += _contradictions(f"{name}:{text}", cpus, pool.exclusive, topology, seen)
        made = _pool(ours, pool.exclusive, list(cpus_of.values()), topology)
        pools[ours] = made
        for text, cpus in cpus_of.items():
            names = tuple(item.name for item in made.lists if item.cpus & cpus)
            # In a shared pool a task sits on one list of ours; it follows its affinity, which the host looks at.
            tasks += [OldTask(pid, ours, names if pool.exclusive else names[:1], cpus) for pid in pool.lists[text]]
    if INFRA not in pools or not pools[INFRA].lists:
        problems.append("there is no CPU in pool infra")
    if problems:
        raise AdoptionError("; ".join(problems))
    return TakenOver(Layout(pools), tuple(tasks))


def as_config(layout: Layout) -> dict[str, PoolConfig]:
    """A configuration that names exactly what a layout has."""
    return {
        name: PoolConfig(cpus=cpuset.kernel_list(pool.cpus), exclusive=pool.exclusive)
        for name, pool in layout.pools.items()
        if pool.lists
    }


def _contradictions(place: str, cpus: CpuSet, exclusive: bool, topology: Topology, seen: dict[int, str]) -> list[str]:
    found = []
    if missing := cpus - topology.cpus:
        found.append(f"{place} has CPUs {cpuset.kernel_list(missing)}, which are not online")
    for cpu in sorted(cpus):
        if seen.setdefault(cpu, place) != place:
            found.append(f"CPU {cpu} is in {seen[cpu]} and in {place}")
    if exclusive and not missing and cpus not in {core.cpus for core in topology.cores}:
        found.append(f"{place} is not one physical core: whoever shares the core would share its caches")
    return found


def _pool(name: str, exclusive: bool, lists: list[CpuSet], topology: Topology) -> Pool:
    if exclusive:
        made = [CpuList(cpus, next((c.socket for c in topology.cores if c.cpus & cpus), 0)) for cpus in lists]
    else:
        everything = frozenset().union(*lists)
        by_socket: dict[int, set[int]] = {}
        for core in topology.cores:
            if part := core.cpus & everything:
                by_socket.setdefault(core.socket, set()).update(part)
        made = [CpuList(frozenset(cpus), socket) for socket, cpus in by_socket.items()]
    return Pool(name, exclusive, tuple(sorted(made, key=lambda item: min(item.cpus))))


def _pids(place: str, words: list[str]) -> tuple[int, ...]:
    for word in words:
        if not word.strip().isdigit():
            raise AdoptionError(f"{place} holds something that is no pid")
    return tuple(int(word) for word in words)
