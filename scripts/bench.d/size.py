"""bench size: allocation, release and stalls of the event loop on nodes of many sizes, and bytes of reports.

The machine has few CPUs: of a larger node those that are asked for are real, see ``Shape.pools``, and all others are only in its layout.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import size_reports
from size_client import REQUEST
from size_node import HERE, INFRA, OWNER, PROCFS, Child, Node, Shape, TooLongError, node

SMALL = Shape(cpus=2, pods=10, tasks=10, processes=100)
LARGE = Shape(cpus=512, pods=250, tasks=1000, processes=4000)
KEEPOUT_PODS = 500
SHAPES = {
    "small": SMALL,
    **{f"cpus {number}": msgspec.structs.replace(SMALL, cpus=number) for number in (16, 64, 256, 512)},
    **{f"pods {number}": msgspec.structs.replace(SMALL, pods=number) for number in (100, 250, 500)},
    **{f"tasks {number}": msgspec.structs.replace(SMALL, tasks=number) for number in (100, 1000)},
    **{f"processes {number}": msgspec.structs.replace(SMALL, processes=number) for number in (1000, 4000)},
    "large": LARGE,
}
KEYS = ("small", "large")
SPAWNERS = 3
FLEET, FLEET_CPUS = 5000, 64
SHARED_TASKS = 100
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Bench:
    """``rounds`` of each measure, which is given up after ``seconds``."""

    def __init__(self, root: Path, rounds: int, seconds: float) -> None:
        self._root = root
        self._rounds = rounds
        self._seconds = seconds
        self.given_up: list[str] = []

    def times(self, name: str, shape: Shape) -> tuple[list[float], list[float]]:
        """Milliseconds of allocations and of releases on a node."""
        with node(shape, self._root) as served:
            return self._rounds_of(served.client(), name)

    def stall(self, name: str, shape: Shape, work: Callable[[Node, float], float], *, in_one_pod: bool = False) -> float:
        """Milliseconds of the longest stall of the loop during some work, which returns that of the part that it has asked about itself."""
        with node(shape, self._root, in_one_pod=in_one_pod) as served:
            try:
                return max(work(served, self._seconds), served.stall(self._seconds)[0])
            except TooLongError as error:
                self.given_up.append(name)
                return error.seconds * 1000

    def pod_dies(self, served: Node, seconds: float) -> float:
        """The pod ends in which all tasks are."""
        longest, tasks, end = 0.0, sys.maxsize, time.monotonic() + seconds
        served.dying.end()
        while tasks > 1 and time.monotonic() < end:  # the agent itself is a task
            found, tasks = served.stall(seconds)
            longest = max(longest, found)
            time.sleep(0.02)
        if tasks > 1:
            self.given_up.append(f"pod_dies with {tasks - 1} tasks left")
        return longest

    def pools_change(self, served: Node, seconds: float) -> float:
        """All tasks move to the CPU that was the exclusive core."""
        reply = json.loads(served.agent.ask("change", seconds))
        print(f"a change of pools: {reply['seconds']:.1f} s", flush=True)
        return reply["stall"]

    def spawning_client(self, served: Node, seconds: float) -> float:
        """A process that starts threads all the time asks for the core, some times."""
        for _ in range(SPAWNERS):
            with served.spawner(REQUEST) as process:
                try:
                    reply, _ = process.communicate(timeout=seconds)
                except subprocess.TimeoutExpired:
                    reply = f"no reply in {seconds:.0f} s"
                finally:
                    process.kill()
            print(f"a client that starts threads: {' '.join(reply.split())[:60]}", flush=True)
        return 0.0

    def keepout(self, served: Node, seconds: float) -> float:
        """The core is allocated and released beside pods that are kept off it."""
        reply = json.loads(served.agent.ask("keepout", seconds))
        if reply["layers"]["pods"]["state"] != "on":
            raise SystemExit(f"bench: isolation.pods: {reply['layers']['pods']}")
        served.stall()
        show("pods, kept off", msgspec.structs.replace(LARGE, pods=KEEPOUT_PODS), *self._rounds_of(served.client(), "keepout"))
        return 0.0

    def _rounds_of(self, client: Child, name: str) -> tuple[list[float], list[float]]:
        rounds: list[tuple[float, float]] = []
        begin = time.monotonic()
        while len(rounds) < self._rounds and (left := begin + self._seconds - time.monotonic()) > 0:
            try:
                rounds.append(json.loads(client.ask("", left)))
            except TooLongError:
                break
        if len(rounds) < self._rounds:
            self.given_up.append(f"{name} after {len(rounds)} rounds")
        least = (time.monotonic() - begin) * 1000
        allocations, releases = zip(*rounds or [(least, least)], strict=True)
        return list(allocations), list(releases)


def show(name: str, shape: Shape, allocations: list[float], releases: list[float]) -> None:
    """Print one row, in milliseconds."""
    figures = [value for times in (allocations, releases) for value in (statistics.median(times), p99(times))]
    numbers = "".join(f"{number:>10}" for number in msgspec.structs.astuple(shape))
    print(f"{name:16}{numbers}" + "".join(f"{value:10.1f}" for value in figures), flush=True)


def p99(times: list[float]) -> float:
    """The 99th percentile."""
    return sorted(times)[int(len(times) * 0.99)]


def main(rounds: int, quick: bool) -> None:
    """Print the tables, and all of them as JSON."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # the agent keeps its tasks on a tmpfs
        root = Path(name)
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", root / "size", HERE / "size.c"], check=True
        )
        print(json.dumps(measure(root, rounds, quick)))


def measure(root: Path, rounds: int, quick: bool) -> dict[str, dict[str, float]]:
    """All measures by name and size."""
    bench = Bench(root, rounds, 5 if quick else 60)
    print(
        f"real CPUs: {INFRA} (pool infra, with all tasks) and {OWNER} (the exclusive core that is asked for); all others do not exist"
    )
    print(f"processes beside those of the nodes: {len(list(PROCFS.pids()))}")
    titles = ("cpus", "pods", "tasks", "processes", "alloc p50", "alloc p99", "free p50", "free p99")
    print(f"{f'ms, {rounds} rounds':16}" + "".join(f"{title:>10}" for title in titles), flush=True)
    allocation, release = {}, {}
    for name, shape in SHAPES.items():
        if name in KEYS or not quick:
            allocations, releases = bench.times(name, shape)
            show(name, shape, allocations, releases)
            if name in KEYS:
                allocation[name], release[name] = (round(statistics.median(times), 2) for times in (allocations, releases))
    beside = msgspec.structs.replace(LARGE, pods=KEEPOUT_PODS)
    stalls = {
        "keepout": bench.stall("keepout", beside, bench.keepout),
        "spawning_client": bench.stall("spawning_client", LARGE, bench.spawning_client),
        "pod_dies": bench.stall("pod_dies", LARGE, bench.pod_dies, in_one_pod=True),
        "pools_change": bench.stall("pools_change", LARGE, bench.pools_change),
    }
    for name, stall in stalls.items():
        print(f"{f'longest stall of the loop, {name}':48}{'at least ' * (name in bench.given_up):>10}{stall:10.0f} ms")
    for text in bench.given_up:
        print(f"given up: {text}")
    return {
        "allocation_ms": allocation,
        "release_ms": release,
        "loop_stall_ms": {name: round(ms, 1) for name, ms in stalls.items()},
        **reports(root),
    }


def reports(root: Path) -> dict[str, dict[str, int]]:
    """Bytes of reports and of lists of them."""
    sizes = {str(cpus): size_reports.bytes_sent(size_reports.full_report(root, cpus, SHARED_TASKS)) for cpus in (256, 512)}
    sizes["5000_tasks"] = size_reports.bytes_sent(size_reports.full_report(root, FLEET_CPUS, 5000))
    for name, size in sizes.items():
        print(f"{f'report, {name}':48}{size:20} bytes")
    read = size_reports.bytes_read(FLEET, size_reports.full_report(root, FLEET_CPUS, SHARED_TASKS))
    for path, size in read.items():
        print(f"{f'one look at {FLEET} nodes, {path}':60}{size:20} bytes")
    return {"report_bytes": sizes, "bytes_per_fleet_look": {str(FLEET): sum(read.values())}}


def interrupted(number: int, _: object) -> None:
    """End in order, so that nothing is left behind, even if this comes twice."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for number in SIGNALS:
        signal.signal(number, interrupted)
    main(int(sys.argv[1]), quick="--quick" in sys.argv[2:])
