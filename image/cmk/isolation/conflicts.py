"""Other managers of a node's CPUs, which would write the same cpusets: kubelet's CPU manager, and programs known by their images."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cmk.kube.kubelet import KubeletError, hands_out_cpus
from cmk.model.pods import reaches_host

# The last part of an image's name, without tag and digest → the program's name.
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

log = logging.getLogger(__name__)

SECONDS_BETWEEN_QUESTIONS = 30.0
KUBELET_CONFLICT = (
    "kubelet's CPU manager hands out CPUs of this node: set cpuManagerPolicy: none in its configuration, remove "
    "cpu_manager_state from its directory and restart it, or set isolation.pods=false"
)


class KubeletCpuManager:
    """Whether kubelet's CPU manager hands out CPUs of this node, asked now and then.

    ``conflict``: what to do about it; empty while it hands out none. ``doubt``: why that is not certain. ``known``: whether kubelet was
    asked. ``socket`` None: no layer needs to know. ``report_changed`` is called when one of these has changed.
    """

    def __init__(self, socket: Path | None, report_changed: Callable[[], None]) -> None:
        self._socket = socket
        self._report_changed = report_changed
        self.known = socket is None
        self.conflict = self.doubt = ""

    async def run(self) -> None:
        """Ask until cancelled; returns immediately without a socket."""
        while self._socket is not None:
            await self.ask(self._socket)
            await asyncio.sleep(SECONDS_BETWEEN_QUESTIONS)

    async def ask(self, socket: Path) -> None:
        """Ask once. An answer holds until the next: a kubelet that gives none may just be restarting."""
        before = (self.known, self.conflict, self.doubt)
        try:
            self.conflict = KUBELET_CONFLICT if await hands_out_cpus(socket) else ""
            self.doubt = ""
        except KubeletError as error:
            self.doubt = f"it is not known whether kubelet's CPU manager hands out CPUs: {error}"
        self.known = True
        if (self.known, self.conflict, self.doubt) != before:
            for text in filter(None, (self.conflict, self.doubt)):
                log.warning("%s", text)
            self._report_changed()


def manager_of(pod: Mapping[str, Any], own: Iterable[str]) -> str:
    """The CPU manager that a v1 Pod object runs, with the pod's name; empty when it runs none.

    Anybody may name an image so, and the layer would open owned cores to all pods: it has to run, and to reach more of the host than the
    directories ``own``, cmk's.
    """
    if (pod.get("status") or {}).get("phase") != "Running" or not reaches_host(pod, own):
        return ""
    spec, meta = pod.get("spec") or {}, pod["metadata"]
    for container in spec.get("containers") or []:
        if program := program_of(container):
            return f"{program} (pod {meta['namespace']}/{meta['name']})"
    return ""


def program_of(container: Mapping[str, Any]) -> str:
    """The CPU manager in a container, known by its image; empty when it is another program."""
    return _IMAGES.get(image_name(container), "")


def image_name(container: Mapping[str, Any]) -> str:
    """The last part of the name of a container's image, without tag and digest."""
    return str(container.get("image") or "").split("@")[0].split("/")[-1].split(":")[0]


def conflict_of(managers: Iterable[str]) -> str:
    """The conflict with these managers and its remedy; empty strings are ignored, and without any manager there is no conflict (``""``)."""
    names = sorted(set(managers) - {""})
    if not names:
        return ""
    return f"{' and '.join(names)} manages CPUs of this node too: remove it from the node, or set isolation.pods=false"
