"""The pod and container that a cgroup path names, in the spelling of every cgroup driver and runtime, and how paths below kubepods nest."""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterable

import msgspec

from cmk.model.errors import CmkError

# What a path names never changes. A node has some hundreds of paths at a time, and each allocation asks about all of them.
CACHED_PATHS = 8192
# Whole files, of the containers that ask; each request reads the file twice.
_CACHED_FILES = 512

# The pod's own directory in every driver's spelling: podUID, kubepods-burstable-podUID_WITH_UNDERSCORES.slice, and for static pods the
# 32-digit hash of their manifest.
_POD = re.compile(
    r"(?:^|-)pod(?P<uid>[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?\Z"
)
# cri-containerd-ID.scope, crio-ID.scope, crio-conmon-ID.scope, ID
_CONTAINER = re.compile(r"(?:.*-)?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z")


class PodContainer(msgspec.Struct, frozen=True):
    """The uid of a pod (or a static pod's config hash) and the id of one of its containers; both empty outside pods."""

    pod: str = ""
    container: str = ""


class MixedCgroupsError(CmkError):
    """A process is in the cgroups of several pods, which no container runtime does."""


@functools.lru_cache(_CACHED_FILES)
def parse_cgroup(text: str) -> PodContainer:
    """Read ``/proc/<pid>/cgroup`` of cgroup v1, v2 and hybrid; raises MixedCgroupsError when its lines disagree on the pod."""
    # Of the dozen hierarchies of cgroup v1 most have the same path.
    named = {parse_path(path) for path in {line.split(":", 2)[-1] for line in text.split("\n")}} - {PodContainer()}
    pods = sorted({container.pod for container in named})
    if len(pods) > 1:
        raise MixedCgroupsError(f"the process is in the cgroups of several pods: {', '.join(pods)}")
    # A runtime may keep one controller at the pod's level; the deepest path names the container.
    return max(named, key=lambda container: container.container, default=PodContainer())


def parse_path(path: str) -> PodContainer:
    """Pod and container of one cgroup path, by its leftmost pod directory: groups that a workload makes below cannot name another pod."""
    parts = [part for part in path.split("/") if part]
    for index, part in enumerate(parts):
        pod = _POD.search(part)
        if pod is None:
            continue
        container = next((match["id"] for name in parts[index + 1 : index + 2] if (match := _CONTAINER.match(name))), "")
        return PodContainer(pod["uid"].replace("_", "-"), container)
    return PodContainer()


@functools.lru_cache(CACHED_PATHS)
def parent_of(path: str) -> str:
    """The path of a group's parent."""
    return posixpath.dirname(path)


@functools.lru_cache(CACHED_PATHS)
def depth(path: str) -> int:
    """How many levels a group is below kubepods: 0 for kubepods itself."""
    return path.count("/") + 1 if path else 0


@functools.lru_cache(CACHED_PATHS)
def container_of(path: str) -> PodContainer:
    """Pod and container that a group belongs to, also below the container's own. The group of CRI-O's monitor belongs to the pod alone."""
    named = parse_path(path)
    if named.container and any(part.startswith("crio-conmon-") for part in path.split("/")):
        return PodContainer(named.pod)
    return named


@functools.lru_cache(CACHED_PATHS)
def is_container(path: str) -> bool:
    """Whether a group is a container's or lies below one: every group below a pod's is."""
    return bool(parse_path(path).pod and parse_path(parent_of(path)).pod)


@functools.lru_cache(CACHED_PATHS)
def is_nested(path: str) -> bool:
    """Whether a group lies below a container's, where only the workload makes groups."""
    return is_container(path) and is_container(parent_of(path))


def top_down(paths: Iterable[str]) -> list[str]:
    """Paths sorted so that parents come before their children."""
    return sorted(paths, key=lambda path: (depth(path), path))
