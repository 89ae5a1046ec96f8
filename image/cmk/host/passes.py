"""The number of passes over threads or processes that start others meanwhile: bounded, for a workload decides how many it starts.

Others wait for the event loop meanwhile. The time is this thread's on a CPU: on a busy node it may wait for one longer than all passes may
last, which says nothing about the workload. A few passes are made however long they take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cmk.host.pauses import own_time

LEAST, MOST = 3, 100


def passes(seconds: float, clock: Callable[[], float] = own_time) -> Iterator[int]:
    """Count passes from 0, at most ``MOST``; none but the ``LEAST`` first ones begin later than ``seconds`` after the first."""
    end = clock() + seconds
    for number in range(MOST):
        if number >= LEAST and clock() >= end:
            return
        yield number
