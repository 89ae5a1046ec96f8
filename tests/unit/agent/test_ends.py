"""Pidfds of processes that end."""

from __future__ import annotations

import asyncio
import os

from cmk.agent.ends import Ends


def test_an_end_is_found_until_it_is_removed() -> None:
    async def scenario() -> None:
        called = asyncio.Event()
        ends: Ends[str] = Ends(called.set)
        first, second = [await asyncio.create_subprocess_exec("sleep", "60") for _ in range(2)]
        pidfds = [os.pidfd_open(process.pid) for process in (first, second)]
        try:
            for pidfd, name in zip(pidfds, ("first", "second"), strict=True):
                ends.add(pidfd, name)
            await asyncio.sleep(0.01)
            assert not called.is_set()
            assert ends.found() == []
            second.kill()
            async with asyncio.timeout(20):
                await called.wait()
            assert ends.found() == ends.found() == ["second"]
            ends.remove(pidfds[1])
            assert ends.found() == []
        finally:
            ends.close()
            for pidfd in pidfds:
                os.close(pidfd)
            first.kill()
            await first.wait()
            await second.wait()

    asyncio.run(scenario())
