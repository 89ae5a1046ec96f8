from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cmk.agent.wakeups import Wakeup, Wakeups


def turns_of(wakeup: Wakeup, scenario: Callable[[], Awaitable[None]]) -> int:
    """How often a loop runs that waits for a wake-up, until it has nothing to do."""
    turns = 0

    async def loop() -> None:
        nonlocal turns
        while True:
            await wakeup.wait()
            turns += 1

    async def run() -> None:
        task = asyncio.get_running_loop().create_task(loop())
        await scenario()
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    return turns


def test_wake_ups_at_once_are_one() -> None:
    wakeup = Wakeup()

    async def scenario() -> None:
        wakeup.wake()
        wakeup.wake()

    assert turns_of(wakeup, scenario) == 1


def test_a_wake_up_before_the_loop_waits_is_not_lost() -> None:
    wakeup = Wakeup()
    wakeup.wake()

    async def scenario() -> None: ...

    assert turns_of(wakeup, scenario) == 1


@pytest.mark.parametrize("seconds", [(0.01, 1000.0), (1000.0, 0.01)])
def test_the_earlier_of_two_later_wake_ups_counts(seconds: tuple[float, float]) -> None:
    async def run() -> None:
        wakeup = Wakeup()
        for number in seconds:
            wakeup.wake_in(number)
        async with asyncio.timeout(20):
            await wakeup.wait()

    asyncio.run(run())


def test_a_loop_can_be_woken_later_again_and_again() -> None:
    async def run() -> None:
        wakeup = Wakeup()
        for _ in range(3):
            wakeup.wake_in(0)
            async with asyncio.timeout(20):
                await wakeup.wait()

    asyncio.run(run())


def test_pools_are_changed_before_the_report_tells_of_them() -> None:
    wakeups = Wakeups()
    order: list[str] = []

    async def loop(name: str, wakeup: Wakeup) -> None:
        await wakeup.wait()
        order.append(name)

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(loop("publish", wakeups.publish))
            group.create_task(loop("change", wakeups.change))
            await asyncio.sleep(0)
            wakeups.wake_both()

    asyncio.run(run())
    assert order == ["change", "publish"]
