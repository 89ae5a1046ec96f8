"""Runs in the owner's pod: a request every half a millisecond, and once a second their latencies as a line of JSON.

``wait``: share of its runnable time that this thread stood in the run queue (schedstat): what other tasks took from it. ``p50``, ``p99``,
``max``: milliseconds from when a request was due until it was done.
"""

import json
import sys
import time
from pathlib import Path

PERIOD = 500_000  # ns
WORK = 150_000


def schedstat() -> tuple[int, int]:
    """Nanoseconds on a CPU, and nanoseconds runnable but waiting for one."""
    ran, waited, _ = Path("/proc/thread-self/schedstat").read_text().split()
    return int(ran), int(waited)


def second() -> dict[str, float]:
    """One second of requests."""
    ran, waited = schedstat()
    start = time.monotonic_ns()
    taken = []
    due = start
    while due - start < 1_000_000_000 and time.monotonic_ns() - start < 2_000_000_000:
        while time.monotonic_ns() < due:
            pass
        end = time.monotonic_ns() + WORK
        while time.monotonic_ns() < end:
            pass
        taken.append((time.monotonic_ns() - due) / 1e6)
        due += PERIOD
    now_ran, now_waited = schedstat()
    taken.sort()
    share = (now_waited - waited) / max(now_waited - waited + now_ran - ran, 1)
    return {
        "time": time.time(),
        "wait": share,
        "p50": taken[len(taken) // 2],
        "p99": taken[len(taken) * 99 // 100],
        "max": taken[-1],
        "served": len(taken),
    }


while True:
    json.dump(second(), sys.stdout)
    print(flush=True)
