"""The number of passes over threads or processes that start others meanwhile: bounded, for a workload decides how many it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic

MOST = 100


def passes(seconds: float, clock: Callable[[], float] = monotonic) -> Iterator[int]:
    """Count passes from 0, at most ``MOST``; none but the first begins later than ``seconds`` after the first."""
    end = clock() + seconds
    for number in range(MOST):
        if number and clock() >= end:
            return
        yield number
