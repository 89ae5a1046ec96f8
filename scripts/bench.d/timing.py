"""Times of whole commands, and the lines that show them."""

from __future__ import annotations

import os
import random
import time


def launch(command: list[str], environment: dict[str, str]) -> float:
    """Microseconds from spawn to exit."""
    start = time.perf_counter_ns()
    pid = os.posix_spawnp(command[0], command, environment)
    _, status = os.waitpid(pid, 0)
    took = (time.perf_counter_ns() - start) / 1000
    if status:
        raise SystemExit(f"bench: {' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return took


def interleaved(commands: dict[str, list[str]], rounds: int, environment: dict[str, str]) -> dict[str, list[float]]:
    """Every command once per round, each round in another order."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name in random.sample(list(commands), len(commands)):
            times[name].append(launch(commands[name], environment))
    return times


def row(name: str, times: list[float], bases: dict[str, list[float]]) -> str:
    """Minimum, median, 99th percentile; median over that of each base."""
    times = sorted(times)
    middle = times[len(times) // 2]
    ratios = "".join(f"{middle / sorted(base)[len(base) // 2]:12.2f}" for base in bases.values())
    return f"{name:32}{times[0]:10.0f}{middle:10.0f}{times[int(len(times) * 0.99)]:10.0f}{ratios}"
