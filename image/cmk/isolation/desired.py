"""The CPUs that each cgroup below kubepods should have so that only owners run on exclusive cores, and the order in which to write them.

Pure: groups are paths relative to the kubepods directory (itself ``""``) with the CPUs configured there, None where a group of cgroup v2
has nothing configured and takes the CPUs of its parent. Orders and errors: Documentation/admin-guide/cgroup-v1/cpusets.rst (a child never
exceeds its parent, a parent never cuts into a child) and cgroup-v2.rst (neither holds; a populated group cannot be emptied again).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from cmk.model.cgroup_path import PodContainer, container_of, is_container, is_nested, parent_of, parse_path, top_down
from cmk.model.cpuset import CpuSet

NOTHING: CpuSet = frozenset()
Groups = Mapping[str, CpuSet | None]


class Hold(msgspec.Struct, frozen=True):
    """CPUs that a task holds, and the container it runs in."""

    runs_in: PodContainer
    cpus: CpuSet


class CpusetRules(msgspec.Struct, frozen=True):
    """The rules for all cpusets of a node.

    ``universe``: CPUs that kubepods had before cmk changed anything. ``closed``: CPUs for their holders only. ``own``: the original
    CPUs of groups, which bound what these may get. ``own_pod``: whether closed CPUs are closed to the other containers of the holder's
    pod. ``strict``: cgroup v1, where children stay within their parents. ``partitions``: groups of containers that get the CPUs they hold
    and no others.
    """

    universe: CpuSet
    closed: CpuSet
    own: Mapping[str, CpuSet] = {}
    own_pod: bool = True
    strict: bool = True
    partitions: frozenset[str] = frozenset()


class CpusetWrite(msgspec.Struct, frozen=True):
    """The CPUs to configure for a group; None empties it, so that it takes those of its parent."""

    path: str
    cpus: CpuSet | None


def desired_cpusets(groups: Groups, rules: CpusetRules, holds: Iterable[Hold]) -> dict[str, CpuSet]:
    """CPUs each group should have. Groups of cgroup v2 that can go on with the CPUs of their parent are left out."""
    held_in = _held_by_group(groups, list(holds), own_pod=rules.own_pod)
    unclosed = rules.universe - rules.closed
    wanted: dict[str, CpuSet] = {}
    for path in top_down(groups):
        if not rules.strict and path not in rules.partitions and not _needs_own_cpuset(path, groups, held_in):
            continue
        held = held_in.get(path, NOTHING)
        cpus = unclosed
        if held or path in rules.own:
            base = rules.own.get(path, rules.universe)
            cpus = held & base if path in rules.partitions else (base - rules.closed) | (held & base)
        if path:
            above = wanted.get(parent_of(path), rules.universe)
            if not cpus or not cpus <= above:
                cpus = (cpus & above) or above
        wanted[path] = cpus or rules.universe
    return wanted


def managed_by_others(groups: Groups, universe: CpuSet) -> list[str]:
    """Groups of pods and containers with other CPUs than those of kubepods: another program manages their cpusets."""
    return sorted(path for path, cpus in groups.items() if cpus and cpus != universe and parse_path(path).pod)


def original_cpusets(
    groups: Groups, own: Mapping[str, CpuSet | None], universe: CpuSet, *, strict: bool
) -> dict[str, CpuSet | None]:
    """CPUs each group has without cmk: its original ones, else those of its parent (None: nothing configured)."""
    wanted: dict[str, CpuSet | None] = {}
    for path in top_down(groups):
        if path in own:
            wanted[path] = own[path]
        elif strict:
            wanted[path] = wanted[parent_of(path)] if path else universe
        elif not is_nested(path):
            wanted[path] = None
    return wanted


def ordered_writes(
    groups: Groups, wanted: Mapping[str, CpuSet], *, strict: bool, children: Mapping[str, Sequence[str]] | None = None
) -> list[CpusetWrite]:
    """Writes that lead from ``groups`` to ``wanted``: first those of groups that lose CPUs, then those of groups that gain some.

    With ``strict`` each write leaves every child within its parent. No set is ever empty. ``children``: the groups right below each, if
    they are known.
    """
    differing = top_down(path for path, cpus in wanted.items() if groups[path] != cpus)
    if not differing:
        return []
    now = dict(groups)
    below = _children(groups) if children is None else children
    writes: list[CpusetWrite] = []

    def write(path: str, cpus: CpuSet) -> None:
        if now[path] != cpus:
            writes.append(CpusetWrite(path, cpus))
            now[path] = cpus

    def used_below(path: str) -> CpuSet:
        """CPUs that the children have after the writes so far: a strict parent may not cut into them."""
        return NOTHING.union(*(now[child] or NOTHING for child in below.get(path, ()))) if strict else NOTHING

    for path in reversed(differing):  # lose
        old = now[path]
        if old is None:
            write(path, wanted[path])
        elif old:
            write(path, (old & wanted[path] or old) | used_below(path))
    for path in differing:  # gain
        write(path, wanted[path] | used_below(path))
    for path in reversed(differing):  # children whose old and new CPUs are disjoint have left their old ones by now
        write(path, wanted[path])
    return writes


def _children(groups: Groups) -> Mapping[str, Sequence[str]]:
    children: dict[str, list[str]] = {}
    for path in groups:
        if path:
            children.setdefault(parent_of(path), []).append(path)
    return children


def _held_by_group(groups: Groups, holds: list[Hold], *, own_pod: bool) -> dict[str, CpuSet]:
    """CPUs that tasks in or below each group hold, for groups with such tasks."""
    held: dict[str, CpuSet] = {}
    by_pod: dict[str, list[Hold]] = {}
    for hold in holds:
        if hold.runs_in.pod:
            by_pod.setdefault(hold.runs_in.pod, []).append(hold)
    for path in groups if by_pod else ():
        for hold in by_pod.get(container_of(path).pod, ()):
            if not is_container(path) or not own_pod or hold.runs_in.container in ("", container_of(path).container):
                held[path] = held.get(path, NOTHING) | hold.cpus
    for path in [path for path in held if not is_container(path)]:
        for group in ancestors(path):
            held[group] = held.get(group, NOTHING) | held[path]
    return held


def _needs_own_cpuset(path: str, groups: Groups, held_in: Mapping[str, CpuSet]) -> bool:
    """Whether a group of cgroup v2 needs CPUs of its own.

    Every group down to pods does, for kubelet may widen its parent; a container does when its pod may use CPUs that it may not, or when
    it has some already.
    """
    if not is_container(path):
        return True
    if is_nested(path):
        return False
    return groups[path] is not None or held_in.get(parent_of(path), NOTHING) != held_in.get(path, NOTHING)


def partition_candidates(groups: Iterable[str], holds: Iterable[Hold], exclusive: CpuSet) -> dict[str, CpuSet]:
    """Groups of containers whose tasks hold ``exclusive`` CPUs and no others, with these CPUs."""
    held: dict[PodContainer, CpuSet] = {}
    for hold in holds:
        held[hold.runs_in] = held.get(hold.runs_in, NOTHING) | hold.cpus
    candidates = {}
    for path in groups:
        if is_container(path) and not is_nested(path):
            container = container_of(path)
            cpus = held.get(container, NOTHING) if container.container else NOTHING
            if cpus and cpus <= exclusive:
                candidates[path] = cpus
    return candidates


def ancestors(path: str) -> list[str]:
    """The groups above one, kubepods (``""``) first."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]


def exclusive_cpus(partitions: Mapping[str, CpuSet]) -> dict[str, CpuSet]:
    """The exclusive CPUs that partitions need: their own for each of them, and for each group above those of all partitions below."""
    exclusive: dict[str, CpuSet] = {}
    for path, cpus in partitions.items():
        for group in [*ancestors(path), path]:
            exclusive[group] = exclusive.get(group, NOTHING) | cpus
    return exclusive
