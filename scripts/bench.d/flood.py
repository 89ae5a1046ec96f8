"""bench flood: the start of a program by the launcher in one pod while another pod floods the agent, compared with that without a flood."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from isolate import serve
from pods import Pods
from timing import launch

from cmk.agent.limits import Limits

LAUNCHES = 200
PAUSE = 0.02  # half the rate at which a pod is served (workloads.limits.requestsPerSecond), or that would be measured
SHARED = "cmk/1 isolate\npool=infra"
FLOODS = {
    "connections": ("connect",),
    "connections, never waiting": ("try",),
    "requests, replies not read": ("send", SHARED),
    "requests": ("ask", SHARED),
    "unreadable requests": ("ask", "x"),
    "describe": ("ask", "cmk/1 describe"),
    "waiting requests": ("ask", "cmk/1 isolate\npool=exclusive\ntimeout=2000"),
}
THREADS = (64, 800)


def client(launcher: str, address: str) -> None:
    """In the good pod: for each line of input, launch a program so many times; prints microseconds as JSON."""
    command = [launcher, "isolate", "--pool=infra", "/bin/true"]
    environment = {"PATH": "/usr/bin:/bin", "CMK_SOCKET": address}
    for line in sys.stdin:
        taken = []
        for _ in range(int(line)):
            taken.append(launch(command, environment))
            time.sleep(PAUSE)
        print(json.dumps(taken), flush=True)


def launches(good: subprocess.Popen[str]) -> list[float]:
    """Microseconds of some launches in the good pod."""
    print(LAUNCHES, file=good.stdin, flush=True)
    answer = good.stdout.readline() if good.stdout else ""
    if not answer:
        raise SystemExit("bench: the launcher was not served")
    return json.loads(answer)


@contextmanager
def flooding(pods: Pods, root: Path, threads: int, flood: str) -> Iterator[None]:
    """A pod that floods the agent."""
    process = pods.start(1, [str(root / "flood"), str(root / "opt/agent.sock"), str(threads), *FLOODS[flood]])
    try:
        time.sleep(0.5)  # all threads are at work by then
        yield
    finally:
        process.kill()
        process.wait()


def row(name: str, quiet: list[float], disturbed: list[float]) -> str:
    """Median and 99th percentile without and with a flood, and their ratios."""
    middles, tails = ([sorted(times)[int(len(times) * part)] for times in (quiet, disturbed)] for part in (0.5, 0.99))
    times = "".join(f"{value:10.0f}" for value in (*middles, *tails))
    return f"{name:42}{times}{middles[1] / middles[0]:10.1f}{tails[1] / tails[0]:10.1f}"


def main(root: Path, rounds: int) -> None:
    """Print the table."""
    pods, address = Pods(), root / "opt/agent.sock"
    agent = pods.start(0, [sys.executable, __file__, "--serve", str(root), str(pods.root)], stderr=subprocess.DEVNULL)
    good = None
    try:
        while not address.exists():
            if agent.poll() is not None:
                raise SystemExit("bench: the agent ended")
            time.sleep(0.05)
        pipe = subprocess.PIPE
        line = [sys.executable, __file__, "--client", str(root / "cmk"), str(address)]
        good = pods.start(2, line, stdin=pipe, stdout=pipe)
        launches(good)
        kinds = [(threads, flood) for threads in THREADS for flood in FLOODS]
        quiet: dict[tuple[int, str], list[float]] = {kind: [] for kind in kinds}
        disturbed: dict[tuple[int, str], list[float]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for threads, flood in random.sample(kinds, len(kinds)):
                quiet[threads, flood] += launches(good)
                with flooding(pods, root, threads, flood):
                    disturbed[threads, flood] += launches(good)
        titles = ("p50 alone", "p50", "p99 alone", "p99", "x p50", "x p99")
        print(f"{f'microseconds, {rounds * LAUNCHES} launches':42}" + "".join(f"{title:>10}" for title in titles))
        for threads, flood in kinds:
            name = f"{threads} threads: {flood}"
            print(row(name, quiet[threads, flood], disturbed[threads, flood]))
        if agent.poll() is not None:
            raise SystemExit("bench: the agent ended")
    finally:
        if good is not None:
            good.kill()
            good.wait()
        agent.send_signal(signal.SIGTERM)
        agent.wait()
        pods.remove()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve", root, cgroups]:
            serve(Path(root), Path(cgroups), Limits())
        case ["--client", launcher, address]:
            client(launcher, address)
        case [root, rounds]:
            main(Path(root), int(rounds))
