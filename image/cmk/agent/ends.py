"""Pidfds that are watched until their processes end: one set for the event loop, and for those who cannot wait until it comes to it."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Ends(Generic[_T]):
    """Calls ``on_ends`` from the event loop while processes that have ended are in the set. Their pidfds stay the caller's."""

    def __init__(self, on_ends: Callable[[], None]) -> None:
        # An epoll of its own, which the event loop watches as one file: a call of the kernel and some objects less for each process.
        self._epoll = select.epoll()
        self._items: dict[int, _T] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), on_ends)

    def add(self, pidfd: int, item: _T) -> None:
        """Watch a pidfd, for which ``item`` stands. Raises OSError when the kernel cannot watch one more."""
        self._epoll.register(pidfd, select.EPOLLIN)
        self._items[pidfd] = item

    def remove(self, pidfd: int) -> None:
        """Watch a pidfd no longer; before it is closed."""
        self._epoll.unregister(pidfd)
        del self._items[pidfd]

    def found(self) -> list[_T]:
        """Whatever stands for processes that have ended by now; again, until they are removed."""
        return [self._items[pidfd] for pidfd, _ in self._epoll.poll(0)]

    def close(self) -> None:
        """Watch nothing any more; again if need be."""
        if self._epoll.closed:
            return
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self._epoll.close()
