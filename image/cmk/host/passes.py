"""The number of passes over threads or processes that start others meanwhile: bounded, for a workload decides how many it starts.

A few passes are made however long they take: on a busy node this process may wait for a CPU longer than all passes may last, which says
nothing about the workload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

LEAST, MOST = 3, 100


def passes(seconds: float, clock: Callable[[], float] = monotonic) -> Iterator[int]:
    """Count passes from 0, at most ``MOST``; none but the ``LEAST`` first ones begin later than ``seconds`` after the first."""
    end = clock() + seconds
    for number in range(MOST):
        if number >= LEAST and clock() >= end:
            return
        yield number
