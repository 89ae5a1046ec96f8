"""Long work on processes that can pause: generators that yield wherever others may have their turn, and return what the work was for."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import thread_time
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


class _OwnTime:
    """Seconds of CPU time of this thread, without those of others while work paused."""

    def __init__(self) -> None:
        self._of_others = 0.0

    def __call__(self) -> float:
        return thread_time() - self._of_others

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time of others. What pauses is one change of pools at a time."""
        begun = thread_time()
        try:
            yield
        finally:
            self._of_others += thread_time() - begun


own_time = _OwnTime()
