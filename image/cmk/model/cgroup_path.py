"""Which pod and container a cgroup path belongs to, in the spelling of every driver and runtime; and how paths below kubepods nest."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterable

import msgspec

# Names of groups do not change what they say; a node has some hundreds at a time, asked about at every allocation.
MANY = 8192

# The pod's own directory in every driver's spelling: podUID, kubepods-burstable-podUID_WITH_UNDERSCORES.slice, and for static pods the
# 32-digit hash of their manifest.
_POD = re.compile(
    r"(?:^|-)pod(?P<uid>[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?\Z"
)
# cri-containerd-ID.scope, crio-ID.scope, crio-conmon-ID.scope, ID
_CONTAINER = re.compile(r"(?:.*-)?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z")


class Place(msgspec.Struct, frozen=True):
    """Pod uid (or static pod's config hash) and container id; both empty outside pods."""

    pod: str = ""
    container: str = ""


class MixedCgroupsError(RuntimeError):
    """A process sits in the cgroups of several pods at once, which no runtime does."""


def parse_cgroup(text: str) -> Place:
    """Read ``/proc/<pid>/cgroup`` of cgroup v1, v2 and hybrid; raises MixedCgroupsError when its lines disagree on the pod."""
    found: set[Place] = set()
    # Of the dozen hierarchies of cgroup v1 most say the same.
    for path in {line.split(":", 2)[-1] for line in text.splitlines()}:
        place = place_of_path(path)
        if place.pod:
            found.add(place)
    if len({place.pod for place in found}) > 1:
        raise MixedCgroupsError(f"cgroups of pods {', '.join(sorted(place.pod for place in found))} at once")
    # Controllers may differ in depth (a runtime that leaves one at the pod); the deepest knows the container.
    return max(found, key=lambda place: place.container, default=Place())


def place_of_path(path: str) -> Place:
    """Pod and container by the leftmost pod directory of one cgroup path: what a workload appends below cannot move it elsewhere."""
    parts = [part for part in path.split("/") if part]
    for index, part in enumerate(parts):
        pod = _POD.search(part)
        if pod is None:
            continue
        container = next((match["id"] for name in parts[index + 1 : index + 2] if (match := _CONTAINER.match(name))), "")
        return Place(pod["uid"].replace("_", "-"), container)
    return Place()


@functools.lru_cache(MANY)
def parent_of(path: str) -> str:
    """The group above."""
    return posixpath.dirname(path)


@functools.lru_cache(MANY)
def depth(path: str) -> int:
    """0 for kubepods itself."""
    return path.count("/") + 1 if path else 0


@functools.lru_cache(MANY)
def place_of(path: str) -> Place:
    """Pod and container of a group; what is below a container belongs to it. CRI-O's monitor beside a container is none of it."""
    place = place_of_path(path)
    if place.container and any(part.startswith("crio-conmon-") for part in path.split("/")):
        return Place(place.pod)
    return place


@functools.lru_cache(MANY)
def is_container(path: str) -> bool:
    """Whether a group is a container's or lies below one: anything below a pod's own directory."""
    return bool(place_of_path(path).pod and place_of_path(parent_of(path)).pod)


@functools.lru_cache(MANY)
def is_nested(path: str) -> bool:
    """Whether a group lies below a container's: the workload made it."""
    return is_container(path) and is_container(parent_of(path))


def top_down(paths: Iterable[str]) -> list[str]:
    """Parents before their children."""
    return sorted(paths, key=lambda path: (depth(path), path))
