"""What is counted of turns of the event loop that take long, and told."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from cmk.agent import stalls
from cmk.agent.stalls import Stalls


def test_a_turn_that_takes_long_is_counted_and_a_wait_for_files_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[float, float]] = []
    monkeypatch.setattr(Stalls, "note", lambda _, *seconds: noted.append(seconds))
    monkeypatch.setattr(stalls, "SECONDS_OF_STALL", 0.2)

    async def scenario() -> None:
        await asyncio.sleep(0.3)
        assert noted == []
        time.sleep(0.3)  # a stall
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: stalls.new_event_loop(Stalls())) as runner:
        runner.run(scenario())
    assert [(seconds >= 0.3, cpu_seconds < 0.3) for seconds, cpu_seconds in noted] == [(True, True)]


def test_only_cpu_time_counts_and_waits_for_a_cpu_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    counted = Stalls()
    assert counted.shown() == {"stalls": 0, "longestMilliseconds": 0}
    counted.note(0.5, 0.01)
    assert (counted.count, caplog.messages) == (0, [])
    counted.note(1.5, 0.01)
    for _ in range(5):
        counted.note(0.3, 0.13)
    counted.note(0.2, 0.11)
    assert counted.shown() == {"stalls": 8, "longestMilliseconds": 256}
    assert caplog.messages == [
        f"nobody was served for {text}, {number} times by now"
        for text, number in [
            ("1.50 s (0.01 s of CPU time)", 1),
            ("0.30 s (0.13 s of CPU time)", 2),
            ("0.30 s (0.13 s of CPU time)", 4),
        ]
    ]
