"""Whether kubelet hands out CPUs on this node by itself, asked now and then: it and we would undo each other's work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cmk.kube.kubelet import KubeletError, hands_out_cpus

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

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 30.0
CONFLICT = (
    "kubelet's CPU manager hands out CPUs of this node: set cpuManagerPolicy: none in its configuration, remove "
    "cpu_manager_state from its directory and restart it, or set isolation.pods=false"
)


class KubeletCpus:
    """``conflict`` is empty while there is none, ``doubt`` says why that is not sure; ``known`` once kubelet was asked.

    ``socket`` None: nobody needs to know.
    """

    def __init__(self, socket: Path | None, changed: Callable[[], None]) -> None:
        self._socket = socket
        self._changed = changed
        self.known = socket is None
        self.conflict = self.doubt = ""

    async def run(self) -> None:
        """Look until cancelled; returns at once when there is nothing to look at."""
        while self._socket is not None:
            await self._look(self._socket)
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)

    async def _look(self, socket: Path) -> None:
        before = (self.known, self.conflict, self.doubt)
        try:
            self.conflict = CONFLICT if await hands_out_cpus(socket) else ""
            self.doubt = ""
        except KubeletError as error:
            # What it said before holds until it says something else: it may just be restarting.
            self.doubt = f"whether kubelet's CPU manager is at work is not known: {error}"
        self.known = True
        if (self.known, self.conflict, self.doubt) != before:
            for text in filter(None, (self.conflict, self.doubt)):
                log.warning("%s", text)
            self._changed()


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
