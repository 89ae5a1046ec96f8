"""A topology in few words, as a NodeReport has it: cores that differ in nothing but their numbers are one entry of their socket.

Numbers are lists of the kernel, in the order of the cores: the second core of ``cores`` has the second CPU of each list in ``cpus``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from cmk.model import cpuset
from cmk.model.topology import Core, Topology

# Fewer numbers than these are shorter one by one.
_SHORTEST_RUN = 3


class _Cores(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    cores: str
    cpus: tuple[str, ...]
    base_frequency: int = 0
    energy_preference: str = ""


class _Short(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    sockets: dict[str, tuple[_Cores, ...]]
    isolated: str = ""
    unbalanced: str = ""
    nohz_full: str = ""
    warnings: tuple[str, ...] = ()


def dump(topology: Topology) -> dict[str, Any]:
    """The topology as JSON values, but for ``isolated_from``, which the report has elsewhere."""
    alike: dict[tuple[int, int, int, str], list[Core]] = {}
    for core in topology.cores:
        alike.setdefault((core.socket, len(core.cpus), core.base_frequency, core.energy_preference), []).append(core)
    sockets: dict[str, tuple[_Cores, ...]] = {}
    for (socket, _, frequency, preference), cores in sorted(alike.items()):
        threads = zip(*(sorted(core.cpus) for core in cores), strict=True)
        entry = _Cores(text_of([core.id for core in cores]), tuple(map(text_of, threads)), frequency, preference)
        sockets[str(socket)] = (*sockets.get(str(socket), ()), entry)
    isolated, unbalanced, nohz_full = (
        text_of(sorted(cpus)) for cpus in (_isolated(topology), topology.unbalanced, topology.nohz_full)
    )
    values: dict[str, Any] = msgspec.to_builtins(_Short(sockets, isolated, unbalanced, nohz_full, topology.warnings))
    return values


def load(values: object, isolated_from: Iterable[str]) -> Topology:
    """Read what ``dump`` returned; raises ValueError, CpuSetError."""
    short = msgspec.convert(values, _Short)
    isolated = cpuset.parse(short.isolated)
    cores = [
        Core(number, int(socket), frozenset(cpus), isolated & frozenset(cpus), entry.base_frequency, entry.energy_preference)
        for socket, entries in short.sockets.items()
        for entry in entries
        for number, *cpus in zip(numbers_of(entry.cores), *map(numbers_of, entry.cpus), strict=True)
    ]
    unbalanced, nohz_full = (cpuset.parse(text) for text in (short.unbalanced, short.nohz_full))
    ordered = tuple(sorted(cores, key=lambda core: core.id))
    return Topology(ordered, tuple(isolated_from), unbalanced, nohz_full, short.warnings)


def _isolated(topology: Topology) -> frozenset[int]:
    return frozenset[int]().union(*(core.isolated_cpus for core in topology.cores))


def text_of(numbers: Sequence[int]) -> str:
    """Numbers as a list of the kernel that keeps their order: ``0-3``, ``0-6:1/2`` for every second one."""
    items, first = [], 0
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    while first < len(numbers):
        last = first
        while last < len(steps) and steps[last] == steps[first] > 0:
            last += 1
        if last - first + 1 < _SHORTEST_RUN:
            last = first
            items.append(str(numbers[first]))
        else:
            every = f":1/{steps[first]}" if steps[first] > 1 else ""
            items.append(f"{numbers[first]}-{numbers[last]}{every}")
        first = last + 1
    return ",".join(items)


def numbers_of(text: str) -> list[int]:
    """The numbers of a list that ``text_of`` has made; raises ValueError, CpuSetError."""
    numbers: list[int] = []
    for item in text.split(","):
        numbers += sorted(cpuset.parse(item))
        if len(numbers) > cpuset.MAX_CPU:
            raise ValueError(f"a list has more than {cpuset.MAX_CPU} numbers")
    return numbers
