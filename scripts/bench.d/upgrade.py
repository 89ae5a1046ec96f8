"""bench upgrade: helm install and helm upgrade on a real cluster of one node; the hooks' share of it is read from Helm's record."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from datetime import datetime

from tests.cluster.cluster import NAMESPACE, REPO, Cluster, wait_for

CHART = str(REPO / "charts/cmk")
BASE = "image.repository=localhost/cmk,image.tag=dev,image.pullPolicy=Never,pools.exclusive.cores=1,pools.shared.cores=0"
# Each change moves pools: the exclusive core and infra exchange their CPUs.
CORES = (0, 1)
WAYS = {"helm upgrade": (), "without hooks": ("--no-hooks",)}


def timed(cluster: Cluster, *line: str) -> float:
    """Seconds of a helm command."""
    start = time.monotonic()
    cluster.helm(*line)
    return time.monotonic() - start


def jobs(cluster: Cluster) -> dict[str, float]:
    """Seconds of each hook's Job in the release's last revision, as Helm wrote them down."""
    release = json.loads(cluster.helm("status", "cmk", "-n", NAMESPACE, "-o", "json"))
    found = {}
    for hook in release["hooks"]:
        begin, end = (hook["last_run"].get(key) or "" for key in ("started_at", "completed_at"))
        if hook["kind"] == "Job" and end > release["info"]["first_deployed"] and begin > "0001-01-02":
            found[hook["name"]] = (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()
    return found


def show(name: str, times: list[float], base: float = 0) -> None:
    """Print minimum, median, maximum and, if given, the ratio of the median to the base."""
    middle = statistics.median(times)
    print(f"{name:24}{min(times):8.1f}{middle:8.1f}{max(times):8.1f}" + (f"{middle / base:8.2f}" if base else ""))


def main(rounds: int) -> None:
    """Print the table."""
    cluster = Cluster("cmk-bench")
    cluster.script("up", "1")
    try:
        cluster.kubectl("label", "node", "node1", "cmk-node=enabled")
        installs, parts = [], {}
        for number in range(rounds):
            if number:
                cluster.helm("uninstall", "cmk", "-n", NAMESPACE, "--wait")
            installs.append(timed(cluster, "install", "cmk", CHART, "-n", NAMESPACE, "--create-namespace", "--set", BASE))
            for name, seconds in jobs(cluster).items():
                parts.setdefault(f"  install: {name}", []).append(seconds)
        wait_for("two webhook pods", lambda: _ready(cluster) == 2)
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        core = 0
        for _ in range(rounds):
            for name in random.sample(list(WAYS), len(WAYS)):
                core = CORES[1 - core]
                line = ("upgrade", "cmk", CHART, "-n", NAMESPACE, "--set", f"{BASE},hosts.node1.pools.exclusive.cpus={core}")
                times[name].append(timed(cluster, *line, *WAYS[name]))
                wait_for("the node has it", lambda core=core: list(cluster.report()["exclusive"]["cpuLists"]) == [str(core)])
                if not WAYS[name]:
                    for job, seconds in jobs(cluster).items():
                        parts.setdefault(f"  upgrade: {job}", []).append(seconds)
        print(f"{'seconds':24}{'min':>8}{'p50':>8}{'max':>8}{'ratio':>8}")
        show("helm install", installs)
        bare = statistics.median(times["without hooks"])
        for name, taken in times.items():
            show(name, taken, bare)
        print("of which, Jobs as Helm saw them")
        for name, taken in parts.items():
            show(name, taken)
    finally:
        cluster.script("down")


def _ready(cluster: Cluster) -> int:
    return int(cluster.get("deployment", "-n", NAMESPACE, "cmk-webhook")["status"].get("readyReplicas", 0))


main(int(sys.argv[1]))
