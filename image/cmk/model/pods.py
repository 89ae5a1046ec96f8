"""What a pod may hold: its effective request of our extended resources, counted as the scheduler counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cmk.model import quantity
from cmk.model.ledger import RESOURCE_PREFIX, Pod
from cmk.model.onmove import ANNOTATION

CONFIG_HASH = "kubernetes.io/config.hash"
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
        config_hash=annotations.get(CONFIG_HASH, "") if "kubernetes.io/config.mirror" in annotations else "",
        on_move=annotations.get(ANNOTATION, ""),
        terminal=(obj.get("status") or {}).get("phase") in _TERMINAL,
    )


def effective_requests(spec: Mapping[str, Any]) -> dict[str, int]:
    """Resource name → count: the larger of the containers together and any moment of the init phase.

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
    found = {name: max(total.get(name, 0), peak.get(name, 0)) for name in total.keys() | peak.keys()}
    return {name: count for name, count in sorted(found.items()) if count}


def demand(pods: Iterable[Pod], resource: str) -> int:
    """What the pods that have not ended request of a resource together."""
    return sum(pod.grants.get(resource, 0) for pod in pods if not pod.terminal)


def _requests(container: Mapping[str, Any]) -> dict[str, int]:
    resources = container.get("resources") or {}
    # The API server copies limits of extended resources into requests; both are read for objects that have not passed it.
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: quantity.whole(str(count)) for name, count in merged.items() if name.startswith(RESOURCE_PREFIX)}


def _sum(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total
