"""Turns of callers: in which order their work is done, and how much of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from math import inf

import pytest

from cmk.agent import callers, turns
from cmk.agent.callers import Caller
from cmk.agent.turns import Turns


def on_turns(scenario: Callable[[Turns, list[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        turns = Turns()
        try:
            await asyncio.wait_for(scenario(turns, []), 20)
        finally:
            turns.stop()

    asyncio.run(run())


def test_callers_take_turns_however_much_one_asks() -> None:
    async def scenario(turns: Turns, done: list[str]) -> None:
        busy, good = Caller("busy", inf, 0.0), Caller("good", inf, 0.0)
        for number in range(4):
            turns.add(busy, partial(done.append, f"busy {number}"))
        for number in range(2):
            turns.add(good, partial(done.append, f"good {number}"))
        while len(done) < 6:
            await asyncio.sleep(0)
        assert done == ["busy 0", "good 0", "busy 1", "good 1", "busy 2", "busy 3"]

    on_turns(scenario)


def test_the_event_loop_goes_on_between_the_turns_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURNS_AT_ONCE", 2)

    async def scenario(turns: Turns, done: list[str]) -> None:
        for number in range(3):
            turns.add(Caller(str(number), inf, 0.0), partial(done.append, str(number)))
        turns.run()
        assert done == ["0", "1"]
        turns.run()
        assert done == ["0", "1", "2"]

    on_turns(scenario)


def test_who_has_waited_comes_before_new_requests_of_the_same_caller() -> None:
    async def scenario(turns: Turns, done: list[str]) -> None:
        caller = Caller("pod", inf, 0.0)
        waits = asyncio.create_task(turns.wait(caller))
        waits.add_done_callback(lambda _: done.append("waited"))
        cancelled = asyncio.create_task(turns.wait(caller))
        await asyncio.sleep(0)
        cancelled.cancel()
        turns.add(caller, partial(done.append, "new"))
        await waits
        while len(done) < 2:
            await asyncio.sleep(0)
        assert done == ["waited", "new"]

    on_turns(scenario)


def test_requests_beyond_the_rate_are_served_later() -> None:
    async def scenario(turns: Turns, done: list[str]) -> None:
        loop = asyncio.get_running_loop()
        caller = Caller("pod", 2.0, loop.time())
        for number in range(4):
            turns.add(caller, partial(done.append, str(number)))
        caller.retries.append(partial(done.append, "retry"))
        for _ in range(5):
            turns.run()
        assert done == ["retry", "0", "1"]
        assert 0 < caller.seconds_until_work(loop.time()) <= 0.5
        assert caller.next_work(loop.time() + 0.6) is not None
        assert caller.next_work(loop.time() + 0.6) is None

    on_turns(scenario)


def test_an_idle_caller_can_be_forgotten() -> None:
    caller = Caller("pod", 2.0, 0.0)
    assert caller.is_idle(0.0)
    caller.requests.append(lambda: None)
    assert not caller.is_idle(0.0)
    assert caller.next_work(0.0)
    assert not caller.is_idle(0.0)  # its rate is not back yet
    assert caller.is_idle(0.6)
    caller.connections = 1
    assert not caller.is_idle(10.0)


def test_refusals_of_a_pod_are_logged_at_a_bounded_rate(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(callers, "REFUSALS_LOGGED", 2)
    caplog.set_level(logging.INFO)

    async def run() -> None:
        caller = Caller("pod u1", 1.0, 0.0)
        for number in range(5):
            caller.log_refusal(7, "never", f"\x1b {number}")
        caller.stop()
        caller.log_refusal(7, "later", "again")

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == [
        "refused process 7 of pod u1 (never): \\x1b 0",
        "refused process 7 of pod u1 (never): \\x1b 1",
        "refused 3 more requests of pod u1: not logged one by one",
        "refused process 7 of pod u1 (later): again",
    ]
