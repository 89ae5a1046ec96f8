"""Long work on processes that can pause: generators that yield wherever others may have their turn, and return what the work was for."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

_T = TypeVar("_T")

Pausing = Generator[None, None, _T]


def without_pause(work: Pausing[_T]) -> _T:
    """Do the work without a pause, and return what it returns. Raises what it raises."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _T = end.value
            return result
