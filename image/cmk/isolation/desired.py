"""Which CPUs each cgroup below kubepods may use so that exclusive cores are their owners' alone, and in which order to write that.

Pure: groups are paths relative to the kubepods directory (itself ``""``) with the CPUs configured there, None where a group of cgroup v2
has nothing configured and takes what its parent has. Orders and errors: Documentation/admin-guide/cgroup-v1/cpusets.rst (a child never
exceeds its parent, a parent never cuts into a child) and cgroup-v2.rst (neither holds; a populated group cannot be emptied again).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cmk.model.cgroup_path import PodContainer, container_of, is_container, is_nested, parent_of, parse_path, top_down
from cmk.model.cpuset import CpuSet

NOTHING: CpuSet = frozenset()
Groups = Mapping[str, CpuSet | None]


class Hold(msgspec.Struct, frozen=True):
    """CPUs that a task holds, and the container it runs in."""

    runs_in: PodContainer
    cpus: CpuSet


class Rules(msgspec.Struct, frozen=True):
    """What holds for a node's groups.

    ``universe``: CPUs that kubepods had before us. ``closed``: CPUs for nobody but holders. ``own``: sets that groups had of their own,
    which bound what they may get. ``strict``: cgroup v1, where children stay within their parents. ``alone``: containers that get what
    they hold and nothing else.
    """

    universe: CpuSet
    closed: CpuSet
    own: Mapping[str, CpuSet] = {}
    own_pod: bool = True
    strict: bool = True
    alone: frozenset[str] = frozenset()


class Write(msgspec.Struct, frozen=True):
    """A group's new set; None empties it, so that it takes what its parent has."""

    path: str
    cpus: CpuSet | None


def desired(groups: Groups, rules: Rules, holds: Iterable[Hold]) -> dict[str, CpuSet]:
    """CPUs each group should have. Groups of cgroup v2 that do well with what their parent has are left out."""
    opened = _opened(groups, list(holds), own_pod=rules.own_pod)
    others = rules.universe - rules.closed
    wanted: dict[str, CpuSet] = {}
    for path in top_down(groups):
        if not rules.strict and path not in rules.alone and not _matters(path, groups, opened):
            continue
        held = opened.get(path, NOTHING)
        cpus = others
        if held or path in rules.own:
            base = rules.own.get(path, rules.universe)
            cpus = held & base if path in rules.alone else (base - rules.closed) | (held & base)
        if path:
            above = wanted.get(parent_of(path), rules.universe)
            if not cpus or not cpus <= above:
                cpus = (cpus & above) or above
        wanted[path] = cpus or rules.universe
    return wanted


def foreign(groups: Groups, universe: CpuSet) -> list[str]:
    """Pods and containers whose set is not simply what kubepods has: somebody else manages them."""
    return sorted(path for path, cpus in groups.items() if cpus and cpus != universe and parse_path(path).pod)


def restored(groups: Groups, own: Mapping[str, CpuSet | None], universe: CpuSet, *, strict: bool) -> dict[str, CpuSet | None]:
    """What each group has once we let go: its own set, else what its parent has (None: nothing configured)."""
    wanted: dict[str, CpuSet | None] = {}
    for path in top_down(groups):
        if path in own:
            wanted[path] = own[path]
        elif strict:
            wanted[path] = wanted[parent_of(path)] if path else universe
        elif not is_nested(path):
            wanted[path] = None
    return wanted


def writes(groups: Groups, wanted: Mapping[str, CpuSet], *, strict: bool) -> list[Write]:
    """Writes that lead from ``groups`` to ``wanted``: whoever loses CPUs first, then whoever gains.

    With ``strict`` each keeps every child within its parent. No set is ever empty.
    """
    now = dict(groups)
    found: list[Write] = []

    def write(path: str, cpus: CpuSet) -> None:
        if now[path] != cpus:
            found.append(Write(path, cpus))
            now[path] = cpus

    children: dict[str, list[str]] = {}
    for path in groups:
        if path:
            children.setdefault(parent_of(path), []).append(path)

    def needed(path: str) -> CpuSet:
        """What children have at this moment: a strict parent may not cut into it."""
        return NOTHING.union(*(now[child] or NOTHING for child in children.get(path, ()))) if strict else NOTHING

    down = top_down(path for path, cpus in wanted.items() if now[path] != cpus)
    for path in reversed(down):  # lose
        have = now[path]
        if have is None:
            write(path, wanted[path])
        elif have:
            write(path, (have & wanted[path] or have) | needed(path))
    for path in down:  # gain
        write(path, wanted[path] | needed(path))
    for path in reversed(down):  # what had nothing in common with its new set has moved by now
        write(path, wanted[path])
    return found


def _opened(groups: Groups, holds: list[Hold], *, own_pod: bool) -> dict[str, CpuSet]:
    """CPUs that tasks in and below each group hold, for those where there are any."""
    opened: dict[str, CpuSet] = {}
    by_pod: dict[str, list[Hold]] = {}
    for hold in holds:
        if hold.runs_in.pod:
            by_pod.setdefault(hold.runs_in.pod, []).append(hold)
    for path in groups if by_pod else ():
        for hold in by_pod.get(container_of(path).pod, ()):
            if not is_container(path) or not own_pod or hold.runs_in.container in ("", container_of(path).container):
                opened[path] = opened.get(path, NOTHING) | hold.cpus
    for path in [path for path in opened if not is_container(path)]:
        above = path
        while above:
            above = parent_of(above)
            opened[above] = opened.get(above, NOTHING) | opened[path]
    return opened


def _matters(path: str, groups: Groups, opened: Mapping[str, CpuSet]) -> bool:
    """Whether a group of cgroup v2 needs a set of its own: all down to pods do, for kubelet may widen what is above them; a container
    does when its pod may use more than it may, or when it has one.
    """
    if not is_container(path):
        return True
    if is_nested(path):
        return False
    return groups[path] is not None or opened.get(parent_of(path), NOTHING) != opened.get(path, NOTHING)


def candidates(groups: Iterable[str], holds: Iterable[Hold], exclusive: CpuSet) -> dict[str, CpuSet]:
    """Groups of containers with tasks, and what these hold; those with a task on CPUs that are not ``exclusive`` are left out."""
    held: dict[tuple[str, str], CpuSet] = {}
    for hold in holds:
        key = (hold.runs_in.pod, hold.runs_in.container)
        held[key] = held.get(key, NOTHING) | hold.cpus
    found = {}
    for path in groups:
        if is_container(path) and not is_nested(path):
            place = container_of(path)
            cpus = held.get((place.pod, place.container), NOTHING) if place.container else NOTHING
            if cpus and cpus <= exclusive:
                found[path] = cpus
    return found


def above(path: str) -> list[str]:
    """Groups above one, kubepods (``""``) first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]


def chain(partitions: Mapping[str, CpuSet]) -> dict[str, CpuSet]:
    """What has to be exclusive to each group that is a partition or above one."""
    found: dict[str, CpuSet] = {}
    for path, cpus in partitions.items():
        for group in [*above(path), path]:
            found[group] = found.get(group, NOTHING) | cpus
    return found
