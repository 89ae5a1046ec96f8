"""Whether kubelet hands out CPUs on this node by itself, asked now and then: it and we would undo each other's work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from cmk.kube.kubelet import KubeletError, hands_out_cpus

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
