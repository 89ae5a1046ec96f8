"""Pods and their effective requests of cmk's extended resources, counted as the scheduler counts them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cmk.model import quantity
from cmk.model.onmove import ANNOTATION
from cmk.model.quantity import QuantityError

RESOURCE_PREFIX = "cmk.intel.com/"
# Cores that one pod or node can have; a count above it is kept as MOST_CORES + 1. No machine that Linux runs on has more CPUs.
MOST_CORES = 65536

CONFIG_HASH, _CONFIG_MIRROR = "kubernetes.io/config.hash", "kubernetes.io/config.mirror"
# Those that are read.
ANNOTATIONS = {CONFIG_HASH, _CONFIG_MIRROR, ANNOTATION}
_TERMINAL = {"Succeeded", "Failed"}


def from_json(obj: Mapping[str, Any]) -> Pod:
    """Read a v1 Pod object of the API."""
    meta = obj["metadata"]
    annotations = meta.get("annotations") or {}
    return Pod(
        uid=meta["uid"],
        namespace=meta["namespace"],
        name=meta["name"],
        grants=effective_requests(obj.get("spec") or {}),
        config_hash=annotations.get(CONFIG_HASH, "") if _CONFIG_MIRROR in annotations else "",
        on_move=annotations.get(ANNOTATION, ""),
        terminal=(obj.get("status") or {}).get("phase") in _TERMINAL,
    )


def effective_requests(spec: Mapping[str, Any]) -> dict[str, int]:
    """Resource name → count: the larger of the containers together and any moment of the init phase, MOST_CORES + 1 where it is more.

    A sidecar (init container with ``restartPolicy: Always``) runs beside everything that starts after it.
    """
    running = _sum(_requests(container) for container in spec.get("containers") or [])
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or []:
        own = _requests(container)
        moment = _sum([sidecars, own])
        peak = {name: max(peak.get(name, 0), moment.get(name, 0)) for name in peak.keys() | moment.keys()}
        if container.get("restartPolicy") == "Always":
            sidecars = moment
    total = _sum([running, sidecars])
    counts = {name: max(total.get(name, 0), peak.get(name, 0)) for name in total.keys() | peak.keys()}
    return {name: count for name, count in sorted(counts.items()) if count}


def reaches_host(obj: Mapping[str, Any], own: Iterable[str]) -> bool:
    """Whether a v1 Pod object sees the host's processes, has a privileged container, or a host path outside the directories ``own``.

    Pod Security's ``baseline`` admits none of these, one of which it takes to manage CPUs. ``own`` are cmk's, which workloads may mount.
    """
    spec = obj.get("spec") or {}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    if spec.get("hostPID") or any((container.get("securityContext") or {}).get("privileged") for container in containers):
        return True
    free = [_parts(directory) for directory in own]
    paths = [_parts(volume["hostPath"]["path"]) for volume in spec.get("volumes") or [] if volume.get("hostPath")]
    return any(all(path[: len(directory)] != directory for directory in free) for path in paths)


def _parts(path: str) -> list[str]:
    # The API server admits "//" and "/." in host paths, but no "..".
    return [part for part in path.split("/") if part not in {"", "."}]


def _requests(container: Mapping[str, Any]) -> dict[str, int]:
    return {name: count_of(amount) or 0 for name, amount in requests_of(container).items()}


def requests_of(container: Mapping[str, Any]) -> dict[str, Any]:
    """What a container requests of cmk's extended resources, as it is written."""
    resources = container.get("resources") or {}
    # The API server copies limits of extended resources into requests; both are read, for objects that have not passed through it.
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: amount for name, amount in merged.items() if name.startswith(RESOURCE_PREFIX)}


def count_of(amount: object) -> int | None:
    """The quantity of an extended resource as a count, at most MOST_CORES + 1; None when it is not a whole number.

    The API server admits whole numbers only. What comes past it must not end an agent, and requests nothing.
    """
    # A number of JSON may be too long for Python to write it down.
    if isinstance(amount, int) and not -MOST_CORES <= amount <= MOST_CORES:
        return MOST_CORES + 1 if amount > 0 else None
    try:
        return min(quantity.whole(str(amount)), MOST_CORES + 1)
    except QuantityError:
        return None


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = min(total.get(name, 0) + count, MOST_CORES + 1)
    return total


def resource_of(pool: str) -> str:
    """Extended resource that grants lists of an exclusive pool: ``cmk.intel.com/<pool>-cores``."""
    return f"{RESOURCE_PREFIX}{pool}-cores"


def pool_of(resource: str) -> str:
    """The pool of an extended resource: the inverse of ``resource_of``."""
    return resource.removeprefix(RESOURCE_PREFIX).removesuffix("-cores")


class Pod(msgspec.Struct, frozen=True):
    """A pod bound to this node. ``grants`` is its effective request: resource name → number of lists.

    ``granted`` says what it gets of them.

    ``config_hash`` names a static pod's cgroup, where its uid on the API does not occur. ``on_move`` is its annotation, "" if none.
    ``terminal`` pods have ended.
    """

    uid: str
    namespace: str
    name: str
    grants: dict[str, int]
    config_hash: str = ""
    terminal: bool = False
    on_move: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def granted(self, resource: str, most: int) -> int:
        """How much of a resource the pod may have of a node that has ``most``: all that it requests, nothing when that is more.

        Sums of very large requests overflow in scheduler and kubelet, which then admit a pod that no node can serve.
        """
        count = self.grants.get(resource, 0)
        return count if count <= most else 0
