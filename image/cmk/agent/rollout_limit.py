"""The limit on how many nodes change their pools at a time (``rollout.maxUnavailable``): a node holds one of that many Leases meanwhile."""

from __future__ import annotations

import asyncio
import logging

from cmk.kube.client import Api, ApiError
from cmk.kube.lease import Lease, LeaseMissingError

log = logging.getLogger(__name__)


class RolloutLimit:
    """Leases are named ``prefix-0``, ``prefix-1`` and so on. The chart creates them: an agent may only get and update them."""

    def __init__(self, api: Api, namespace: str, prefix: str, node: str) -> None:
        self._api, self._namespace, self._prefix, self._node = api, namespace, prefix, node
        self._leases: list[Lease] = []
        self._held: Lease | None = None
        self._missing: set[str] = set()

    async def acquire(self, limit: int) -> str:
        """Hold a Lease. Returns "" when this node may change its pools now, else what it waits for; ``limit`` 0 is no limit.

        A Lease that somebody has deleted lowers the limit by one until ``helm upgrade`` creates it again. Raises ApiError.
        """
        if not limit:
            return ""
        while len(self._leases) < limit:
            self._leases.append(Lease(self._api, self._namespace, f"{self._prefix}-{len(self._leases)}", self._node))
        for lease in self._leases[:limit]:
            if await self._hold(lease):
                self._held = lease
                return ""
        names = {lease.name for lease in self._leases[:limit]}
        if names <= self._missing:
            return f"until helm upgrade has created Lease {', '.join(sorted(names))} again (rollout.maxUnavailable)"
        if missing := names & self._missing:
            return f"for its turn; helm upgrade creates Lease {', '.join(sorted(missing))} again, so that more nodes change at a time"
        return "for its turn: rollout.maxUnavailable nodes are changing already"

    async def release(self) -> None:
        """Let another node change its pools."""
        held, self._held = self._held, None
        if held is not None:
            try:
                await asyncio.to_thread(held.release)
            except ApiError as error:
                log.warning("cannot release Lease %s, which expires by itself: %s", held.name, error)

    async def _hold(self, lease: Lease) -> bool:
        try:
            is_held = await asyncio.to_thread(lease.hold)
        except LeaseMissingError:
            if lease.name not in self._missing:
                log.warning(
                    "namespace %s lacks Lease %s (rollout.maxUnavailable); helm upgrade creates it", self._namespace, lease.name
                )
            self._missing.add(lease.name)
            return False
        self._missing.discard(lease.name)
        return is_held
