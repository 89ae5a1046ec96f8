"""bench fleet: looks at a roll-out on 5000 nodes beside a real API server, at whole objects, as before, and at tables, as the hook does.

And what the watches of many agents ask of the server: see agents.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import agents
from bytes_read import Counter, cpu_seconds
from kubernetes.client.configuration import Configuration
from kubernetes.config.kube_config import load_kube_config
from tests.cluster.cluster import REPO, Cluster
from tests.unit.agent.full_nodes import full_report

from cmk.fleet import cluster_nodes
from cmk.fleet.looks import Looks
from cmk.fleet.preview import Node
from cmk.kube import client, reports

NODES = 5000
TEMPLATES = ("charts/crds/templates/nodereports.yaml", "templates/agent/configmap.yaml")
CPUS, PODS = 64, 30
# A kubelet reports fifty images and twenty labels, and their owners are noted.
IMAGES = [
    {"names": [f"registry.example/team/program-{number}@sha256:{number:064x}"], "sizeBytes": 10**8 + number}
    for number in range(50)
]
LABELS = {f"feature.node.kubernetes.io/cpu-cpuid.F{number}": "true" for number in range(20)}


def fill(api: client.Api, report: dict[str, object]) -> None:
    """Make nodes and reports."""

    def make(number: int) -> None:
        name = f"worker-{number:04}"
        conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}]
        node = {
            "metadata": {"name": name, "labels": LABELS | {"cmk-node": "enabled"}},
            "status": {"conditions": conditions, "images": IMAGES},
        }
        api.create(cluster_nodes.NODES, {"apiVersion": "v1", "kind": "Node", **node})
        api.create(reports.PATH, {"apiVersion": reports.GROUP, "kind": "NodeReport", "metadata": {"name": name}, **report})

    with ThreadPoolExecutor(8) as pool:
        for done, _ in enumerate(pool.map(make, range(NODES)), 1):
            if done % 1000 == 0:
                print(f"{done} nodes are made", flush=True)


def measure(api: client.Api, apiserver: int, rounds: int) -> dict[str, dict[str, float]]:
    """Print a row for each way to look; all rows by their names."""
    looks, counter = Looks(api), Counter()
    ways: dict[str, Callable[[], Iterable[Node]]] = {
        "whole objects": partial(cluster_nodes.nodes, api),
        "tables, the first": lambda: [*Looks(api)(False)],
        "tables": partial(looks, False),
        "tables, the last": partial(looks, True),
    }
    sum(1 for _ in looks(False))
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            counter.bytes, before, begin = 0, cpu_seconds(apiserver), time.monotonic()
            seen = sum(1 for _ in ways[name]())
            if seen != NODES:
                raise SystemExit(f"bench: {name}: {seen} nodes instead of {NODES}")
            found[name].append((counter.bytes / 1e6, cpu_seconds(apiserver) - before, time.monotonic() - begin))
    print(f"{f'a look at {NODES} nodes, medians of {rounds}':40}{'MB':>8}{'s of CPU':>10}{'s':>8}")
    result = {}
    for name, rows in found.items():
        middle = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{name:40}{middle[0]:8.1f}{middle[1]:10.2f}{middle[2]:8.2f}")
        result[name] = dict(zip(("MB", "apiserver_cpu_s", "s"), (round(value, 2) for value in middle), strict=True))
    return result


def inside(rounds: int, run: Path) -> None:
    """In the cluster's network."""
    configuration = Configuration()
    load_kube_config(client_configuration=configuration)
    api = client.Api(configuration)
    fill(api, full_report(run / "report", CPUS, PODS))
    looks = measure(api, int((run / "apiserver.pid").read_text()), rounds)
    names = [f"worker-{number:04}" for number in range(NODES)]
    print(json.dumps({"looks": looks, "agents": asyncio.run(agents.measure(configuration, names, run))}))


def main(rounds: int) -> None:
    """A control plane without nodes of its own, and without controllers, which would find the nodes dead."""
    cluster = Cluster("cmk-bench")
    cluster.script("up", "0")
    try:
        shown = [word for name in TEMPLATES for word in ("--show-only", name)]
        objects = cluster.helm("template", "cmk", str(REPO / "charts/cmk"), "-n", agents.NAMESPACE, *shown)
        cluster.kubectl("create", "namespace", agents.NAMESPACE)
        cluster.kubectl("apply", "-f", "-", stdin=objects)
        cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        run = Path(os.environ["CMK_CACHE"]) / "clusters/cmk-bench/run"
        for name in ("kcm", "scheduler"):
            os.kill(int((run / f"{name}.pid").read_text()), 9)
        line = [str(REPO / "scripts/cluster"), "run", sys.executable, __file__, "--inside", str(rounds), str(run)]
        subprocess.run(line, env=cluster.environment, check=True)
    finally:
        cluster.script("down")


if __name__ == "__main__":
    if sys.argv[1] == "--inside":
        inside(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]))
