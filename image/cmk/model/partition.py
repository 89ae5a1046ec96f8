"""Which containers may be isolated partitions of cgroup v2, and what their groups and all above them need for it.

Pure. A partition's CPUs must be exclusive to every group from kubepods down to it (Documentation/admin-guide/cgroup-v2.rst,
``cpuset.cpus.exclusive``), and everything in it runs on them alone: so only a container that is on cores of its own anyway can be one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cmk.isolation.desired import NOTHING, Hold, is_container, is_nested, place_of
from cmk.model.cpuset import CpuSet

Sets = Mapping[str, CpuSet]


def candidates(groups: Iterable[str], holds: Iterable[Hold], exclusive: CpuSet) -> dict[str, CpuSet]:
    """Groups of containers with tasks, and what these hold; those with a task on CPUs that are not ``exclusive`` are left out."""
    held: dict[tuple[str, str], CpuSet] = {}
    for hold in holds:
        key = (hold.place.pod, hold.place.container)
        held[key] = held.get(key, NOTHING) | hold.cpus
    found = {}
    for path in groups:
        if is_container(path) and not is_nested(path):
            place = place_of(path)
            cpus = held.get((place.pod, place.container), NOTHING) if place.container else NOTHING
            if cpus and cpus <= exclusive:
                found[path] = cpus
    return found


def above(path: str) -> list[str]:
    """Groups above one, kubepods (``""``) first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]


def chain(partitions: Sets) -> dict[str, CpuSet]:
    """What has to be exclusive to each group that is a partition or above one."""
    found: dict[str, CpuSet] = {}
    for path, cpus in partitions.items():
        for group in [*above(path), path]:
            found[group] = found.get(group, NOTHING) | cpus
    return found
