"""Other programs that hand out CPUs on a node, by the images their pods run: two of them would undo each other's work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Last part of an image's name, without tag and digest → what it is and how to make room for us.
_IMAGES = {
    "nri-resource-policy-balloons": "nri-plugins' balloons policy",
    "nri-resource-policy-topology-aware": "nri-plugins' topology-aware policy",
    "nri-resource-policy-template": "nri-plugins' template policy",
    "cri-resmgr": "CRI Resource Manager",
    "cri-resmgr-agent": "CRI Resource Manager",
    "dra-driver-cpu": "dra-driver-cpu",
    "dracpu": "dra-driver-cpu",
    "cpu-device-plugin": "CPU-Pooler",
    "cpusetter": "CPU-Pooler",
}
_TERMINAL = {"Succeeded", "Failed"}


def manager_of(pod: Mapping[str, Any]) -> str:
    """Which other manager of CPUs a v1 Pod object is, with its name; empty when it is none or has ended."""
    if (pod.get("status") or {}).get("phase") in _TERMINAL:
        return ""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    for container in spec.get("containers") or []:
        name = str(container.get("image") or "").split("@")[0].split("/")[-1].split(":")[0]
        if name in _IMAGES:
            return f"{_IMAGES[name]} (pod {meta['namespace']}/{meta['name']})"
    return ""


def conflict_of(managers: Iterable[str]) -> str:
    """What to say about them; empty when there are none."""
    found = sorted(set(managers) - {""})
    if not found:
        return ""
    return f"{' and '.join(found)} manages CPUs of this node too: remove it from the node, or set isolation.pods=false"
