"""Turns of callers: each does one piece of work, then it is the next one's turn, however much work one has; and long work, which pauses."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from cmk.agent.callers import Caller
from cmk.host.pauses import Pausing, own_time

# Callers that get their turn before the event loop looks at sockets again.
TURNS_AT_ONCE = 16
# Of CPU time, after which work that can pause does.
SECONDS_AT_ONCE = 0.02

_T = TypeVar("_T")


async def with_pauses(work: Pausing[_T]) -> _T:
    """Do the work, and let the event loop turn whenever it has taken so long; returns what it returns, and raises what it raises."""
    due = own_time() + SECONDS_AT_ONCE
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _T = end.value
            return result
        if own_time() >= due:
            with own_time.paused():
                await asyncio.sleep(0)
            due = own_time() + SECONDS_AT_ONCE


class Turns:
    """Does the work of callers one piece after the other. A caller that may do nothing yet, because of its rate, is passed over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._order: deque[Caller] = deque()
        self._next: asyncio.Handle | None = None
        self._is_soon = False

    def add(self, caller: Caller, work: Callable[[], None]) -> None:
        """Do ``work``, which raises nothing, when it is the caller's turn."""
        caller.requests.append(work)
        self._enter(caller)

    async def wait(self, caller: Caller) -> None:
        """Wait for the caller's turn, with work that has been begun already: such work comes before new requests."""
        turn: asyncio.Future[None] = self._loop.create_future()
        caller.retries.append(lambda: None if turn.done() else turn.set_result(None))
        self._enter(caller)
        await turn

    def run(self) -> None:
        """Let every caller have its turn, and arrange for what is left."""
        self._cancel()
        now, done = self._loop.time(), 0
        for _ in range(len(self._order)):
            caller = self._order.popleft()
            if work := caller.next_work(now):
                work()
                done += 1
            caller.has_turn = caller.has_work
            if caller.has_turn:
                self._order.append(caller)
            if done == TURNS_AT_ONCE:
                break
        if self._order:
            delay = min(caller.seconds_until_work(now) for caller in self._order)
            self._is_soon = not delay
            self._next = self._loop.call_later(delay, self.run) if delay else self._loop.call_soon(self.run)

    def stop(self) -> None:
        """Do no more work."""
        self._order.clear()
        self._cancel()

    def _enter(self, caller: Caller) -> None:
        if not caller.has_turn:
            caller.has_turn = True
            self._order.append(caller)
        if not self._is_soon:
            self._cancel()
            self._is_soon = True
            self._next = self._loop.call_soon(self.run)

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next, self._is_soon = None, False
