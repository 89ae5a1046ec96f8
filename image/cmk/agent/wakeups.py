"""The wake-ups of the agent's two loops. Every change that a loop has to act on wakes it here: a search for ``wake`` finds every place.

What is below the agent (isolation layers, kubelet's watch, the search for an older CMK) gets ``wake_both`` or a method that calls it as
``report_changed`` or ``changed``.
"""

from __future__ import annotations

import asyncio


class Wakeup:
    """Wakes one loop, now or later. Any number of wake-ups that come before the loop waits again are one."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Have the loop run as soon as it waits."""
        self._event.set()

    def wake_in(self, seconds: float) -> None:
        """Have the loop run after so many seconds at the latest."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None and self._timer.when() > due:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = loop.call_at(due, self._on_timer)

    async def wait(self) -> None:
        """Return at the next wake-up."""
        await self._event.wait()
        self._event.clear()

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()


class Wakeups:
    """``publish`` writes the Node and the NodeReport, ``change`` changes pools.

    They are two loops so that an API server that cannot be reached holds up reports, but neither pools nor isolation.
    """

    def __init__(self) -> None:
        self.publish = Wakeup()
        self.change = Wakeup()

    def wake_both(self) -> None:
        """After a change of the ledger or of what the API server says: pools first, as the report tells of them."""
        self.change.wake()
        self.publish.wake()
