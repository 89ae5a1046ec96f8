"""For how long the event loop served nobody: measured at every turn of the loop, told in the log and in the NodeReport."""

from __future__ import annotations

import asyncio
import logging
import selectors
from time import monotonic, thread_time

log = logging.getLogger(__name__)

# Of CPU time: nothing that the agent does at once takes longer.
SECONDS_OF_STALL = 0.1
# On the clock: the agent may have waited for a CPU as well, on a node that leaves it none.
SECONDS_LOGGED = 1.0


class Stalls:
    """``count`` turns of the event loop took longer than they may, the longest ``longest`` seconds of CPU time."""

    def __init__(self) -> None:
        self.count = 0
        self.longest = 0.0
        self._logged = 0
        self._due = 1

    def note(self, seconds: float, cpu_seconds: float) -> None:
        """Count a turn that took so long, and so long on a CPU. Logged is the first one, and each time that the number has doubled."""
        if cpu_seconds >= SECONDS_OF_STALL:
            self.count += 1
            self.longest = max(self.longest, cpu_seconds)
        if cpu_seconds < SECONDS_OF_STALL and seconds < SECONDS_LOGGED:
            return
        self._logged += 1
        if self._logged == self._due:
            self._due *= 2
            log.warning("nobody was served for %.2f s (%.2f s of CPU time), %d times by now", seconds, cpu_seconds, self._logged)

    def shown(self) -> dict[str, int]:
        """Count and milliseconds of the longest, each rounded up to a power of two, so that a report that shows them seldom changes."""
        return {"stalls": _rounded(self.count), "longestMilliseconds": _rounded(round(self.longest * 1000))}


class StallMeter(selectors.DefaultSelector):
    """Measures the time between two looks of the event loop at its files."""

    def __init__(self, stalls: Stalls) -> None:
        super().__init__()
        self._stalls = stalls
        self._since = monotonic(), thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for files, as any selector does."""
        seconds, cpu_seconds = monotonic() - self._since[0], thread_time() - self._since[1]
        if seconds >= SECONDS_OF_STALL:
            self._stalls.note(seconds, cpu_seconds)
        found = super().select(timeout)
        self._since = monotonic(), thread_time()
        return found


def new_event_loop(stalls: Stalls) -> asyncio.AbstractEventLoop:
    """An event loop whose stalls are counted."""
    return asyncio.SelectorEventLoop(StallMeter(stalls))


def _rounded(number: int) -> int:
    return 1 << (number - 1).bit_length() if number else 0
