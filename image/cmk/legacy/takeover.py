"""The state of kcm and CMK, read as a layout and its tasks: taken over when it fits the machine, refused with reasons otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from cmk.model import cpuset
from cmk.model.choice import OLD_NAMES
from cmk.model.config import PoolConfig
from cmk.model.cpuset import CpuSet, CpuSetError
from cmk.model.errors import CmkError
from cmk.model.layout import INFRA, CpuList, Layout, Pool
from cmk.model.topology import Topology

_PID = "[0-9]{1,9}"
_EXCLUSIVE_IN_1_5 = frozenset({"exclusive", "exclusive-non-isolcpus"})


class AdoptionError(CmkError):
    """Old state that cannot be read, or that contradicts the machine or itself; the text names pool and list."""


class OldPool(msgspec.Struct, frozen=True):
    """A pool of the old state: CPU lists as text, each with the host pids that held it."""

    exclusive: bool
    lists: dict[str, tuple[int, ...]]


class OldTask(msgspec.Struct, frozen=True):
    """A pid on a list of the old state. ``lists`` are the names in the new layout, ``cpus`` the CPUs of the old list."""

    pid: int
    pool: str
    lists: tuple[str, ...]
    cpus: CpuSet


class TakenOver(msgspec.Struct, frozen=True):
    """The layout and the tasks of the old state; whether their pids are still alive is not known here."""

    layout: Layout
    tasks: tuple[OldTask, ...]


def parse_configmap(data: object) -> dict[str, OldPool]:
    """The decoded YAML of CMK 1.5's ``cmk-config-<node>``: pool → socket → list → pids. Raises AdoptionError."""
    if not isinstance(data, Mapping) or not data:
        raise AdoptionError("the ConfigMap holds no pools")
    pools = {}
    for name, sockets in data.items():
        lists: dict[str, tuple[int, ...]] = {}
        for by_list in _mapping(sockets, str(name)).values():
            for text, pids in _mapping(by_list, str(name)).items():
                place = f"{name}:{text}"
                if str(text) in lists:
                    raise AdoptionError(f"{place} is in the ConfigMap twice")
                if not isinstance(pids, list | None):
                    raise AdoptionError(f"{place} has {str(pids)[:20]!r} instead of a list of pids")
                lists[str(text)] = _pids(place, [str(pid) for pid in pids or []])
        pools[str(name)] = OldPool(str(name) in _EXCLUSIVE_IN_1_5, lists)
    return pools


def _mapping(value: object, pool: str) -> Mapping[object, object]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise AdoptionError(f"pool {pool} of the ConfigMap does not consist of sockets and CPU lists")
    return value


def parse_tasks(place: str, text: str) -> tuple[int, ...]:
    """The ``tasks`` file of a list: pids separated by commas, empty when the list is free. Raises AdoptionError."""
    return _pids(place, [word for word in text.replace("\n", ",").split(",") if word.strip()])


def take_over(old: Mapping[str, OldPool], topology: Topology) -> TakenOver:
    """The layout with the same lists, and its tasks; raises AdoptionError with every contradiction at once."""
    problems: list[str] = []
    seen: dict[int, str] = {}
    pools: dict[str, Pool] = {}
    tasks: list[OldTask] = []
    for name, pool in sorted(old.items()):
        ours = OLD_NAMES.get(name, name)
        cpus_of: dict[str, CpuSet] = {}
        for text in pool.lists:
            try:
                cpus = cpuset.parse(text)
            except CpuSetError as error:
                problems.append(f"{name}:{text}: {error}")
                continue
            if cpus:
                cpus_of[text] = cpus
            else:
                problems.append(f"{name}: a list has no CPU")
        for text, cpus in cpus_of.items():
            problems += _contradictions(f"{name}:{text}", cpus, pool.exclusive, topology, seen)
        pools[ours] = _pool(ours, pool.exclusive, list(cpus_of.values()), topology)
        for text, cpus in cpus_of.items():
            names = tuple(item.name for item in pools[ours].lists if item.cpus & cpus)
            # In a shared pool a task is on one list of ours; which one, its affinity will tell (see tree.living_tasks).
            tasks += [OldTask(pid, ours, names if pool.exclusive else names[:1], cpus) for pid in pool.lists[text]]
    if INFRA not in pools or not pools[INFRA].lists:
        problems.append("pool infra has no CPUs")
    if problems:
        raise AdoptionError("; ".join(problems))
    return TakenOver(Layout(pools), tuple(tasks))


def as_config(layout: Layout) -> dict[str, PoolConfig]:
    """A configuration whose pools have exactly the CPUs of a layout."""
    return {
        name: PoolConfig(cpus=cpuset.kernel_list(pool.cpus), exclusive=pool.exclusive)
        for name, pool in layout.pools.items()
        if pool.lists
    }


def _contradictions(place: str, cpus: CpuSet, exclusive: bool, topology: Topology, seen: dict[int, str]) -> list[str]:
    problems = []
    if missing := cpus - topology.cpus:
        problems.append(f"{place} has CPUs {cpuset.kernel_list(missing)}, which are not online")
    for cpu in sorted(cpus):
        if seen.setdefault(cpu, place) != place:
            problems.append(f"CPU {cpu} is in {seen[cpu]} and in {place}")
    if exclusive and not missing and cpus not in {core.cpus for core in topology.cores}:
        problems.append(f"{place} is not one physical core: another process on the rest of the core would share its caches")
    return problems


def _pool(name: str, exclusive: bool, lists: list[CpuSet], topology: Topology) -> Pool:
    if exclusive:
        cpu_lists = [CpuList(cpus, next((c.socket for c in topology.cores if c.cpus & cpus), 0)) for cpus in lists]
    else:
        everything = frozenset().union(*lists)
        by_socket: dict[int, set[int]] = {}
        for core in topology.cores:
            if part := core.cpus & everything:
                by_socket.setdefault(core.socket, set()).update(part)
        cpu_lists = [CpuList(frozenset(cpus), socket) for socket, cpus in by_socket.items()]
    return Pool(name, exclusive, tuple(sorted(cpu_lists, key=lambda item: min(item.cpus))))


def _pids(place: str, words: list[str]) -> tuple[int, ...]:
    for word in words:
        if not re.fullmatch(_PID, word.strip()):
            raise AdoptionError(f"{place} has {word.strip()[:20]!r}, which is not a pid")
    return tuple(int(word) for word in words)
