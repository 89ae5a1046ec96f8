"""How many nodes change their pools at a time: each needs one of so many Leases for as long as it does."""

from __future__ import annotations

import asyncio
import logging

from cmk.kube.client import Api, ApiError
from cmk.kube.lease import Lease

log = logging.getLogger(__name__)


class Slots:
    """Leases are named ``prefix-0`` and so on; the chart makes them."""

    def __init__(self, api: Api, namespace: str, prefix: str, node: str) -> None:
        self._api, self._namespace, self._prefix, self._node = api, namespace, prefix, node
        self._leases: list[Lease] = []
        self._held: Lease | None = None

    async def take(self, limit: int) -> bool:
        """Whether this node may change now; ``limit`` 0 is no limit. Raises ApiError."""
        if not limit:
            return True
        while len(self._leases) < limit:
            name = f"{self._prefix}-{len(self._leases)}"
            self._leases.append(Lease(self._api, self._namespace, name, self._node, lambda: None))
        for lease in self._leases[:limit]:
            if await asyncio.to_thread(lease.hold):
                self._held = lease
                return True
        return False

    async def give_back(self) -> None:
        """Let another node have its turn."""
        held, self._held = self._held, None
        if held is not None:
            try:
                await asyncio.to_thread(held.release)
            except ApiError as error:
                log.warning("lease of the roll-out: %s", error)  # it runs out by itself
