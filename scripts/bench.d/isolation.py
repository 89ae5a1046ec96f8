"""bench isolation: how much of an exclusive core each layer leaves to its owner beside noisy pods, on a real node.

The machine around the node (its control plane, this program) is kept off the core during all measurements, as if it were another one.
"""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from barchart import draw
from tests.cluster.cluster import NAMESPACE, REPO, Cluster, Json, Pod, manifest, wait_for

CORE = 0
IMAGE = "localhost/cmk:dev"
SECONDS = 6
BASE = ["image.repository=localhost/cmk", "image.tag=dev", "image.pullPolicy=Never", "webhook.enabled=false"]
BASE += ["pools.exclusive.cores=1", "pools.shared.cores=0"]
# With a host that does not exist, agents mount the directories of all layers, so that a change of layers restarts no agent.
BASE += ["hosts.nowhere.isolation.irqs=on"]
OFF = {"pods": "false", "host": "off", "irqs": "off"}
LAYERS: dict[str, tuple[bool, dict[str, str]]] = {
    "nothing": (False, {}),
    "affinity only": (True, {}),
    "pods (default)": (True, {"pods": "true"}),
    "+ host": (True, {"pods": "true", "host": "affinity"}),
    "+ irqs": (True, {"pods": "true", "host": "affinity", "irqs": "on"}),
}
BURN = ("sh", "-c", "while :; do :; done")
NOISE: dict[str, list[tuple[str, ...]]] = {
    "none": [],
    "1 best-effort burner": [("", *BURN)],
    "4 best-effort burners": [("", *BURN)] * 4,
    "4 burstable burners": [("200m", *BURN)] * 4,
    "50-thread waker": [("", "python3", "/bench/noise.py", "waker")],
    "fsync, loopback, fork": [("", "python3", "/bench/noise.py", "storm")],
}
FIELDS = ["round", "layer", "noise", "wait", "p50", "p99", "max", "served", "foreign_pods_ms", "daemons_ms", "steal_ms"]


def pod(name: str, command: tuple[str, ...], request: str = "", cores: int = 0) -> Json:
    """A pod with Python and the programs of this directory."""
    made = manifest(name, command, cores)
    spec = made["spec"]
    spec["containers"][0] |= {"image": IMAGE}
    spec["containers"][0]["volumeMounts"] += [
        {"name": "bench", "mountPath": "/bench", "readOnly": True},
        {"name": "tmp", "mountPath": "/scratch"},
    ]
    spec["volumes"] += [{"name": "bench", "configMap": {"name": "bench"}}, {"name": "tmp", "emptyDir": {}}]
    if request:
        spec["containers"][0]["resources"] = {"requests": {"cpu": request}}
    return made


def apply(cluster: Cluster, pods: list[Json]) -> None:
    """Create, and wait until all run."""
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))
    for item in pods:
        Pod(cluster, item["metadata"]["name"]).wait_running()


def configure(cluster: Cluster, layers: dict[str, str]) -> None:
    """Switch layers and wait until the node's agent reports them."""
    asked = OFF | layers
    settings = [*BASE, *(f"isolation.{name}={value}" for name, value in asked.items())]
    cluster.helm(
        "upgrade", "--install", "cmk", str(REPO / "charts/cmk"), "-n", NAMESPACE, "--create-namespace", "--reset-values", "--wait",
        *(word for setting in settings for word in ("--set", setting)),
    )  # fmt: skip
    cluster.kubectl("label", "node", "node1", "cmk-node=enabled", "--overwrite")
    wanted = {f"node1: isolation.{name}={value} from values" for name, value in asked.items()}
    wait_for(
        "the layers are on",
        lambda: wanted <= set((cluster.find("cmk-nodereport", "node1") or {}).get("status", {}).get("values", [])),
    )


@contextmanager
def world_elsewhere() -> Iterator[None]:
    """Processes that are not the node's leave the core, and come back."""
    moved: dict[int, set[int]] = {}
    for task in Path("/proc").glob("[0-9]*/task/[0-9]*"):
        try:
            group = (task / "cpuset").read_text()
            tid = int(task.name)
            allowed = os.sched_getaffinity(tid)
            if "node1" not in group and CORE in allowed and len(allowed) > 1:
                os.sched_setaffinity(tid, allowed - {CORE})
                moved[tid] = allowed
        except OSError:
            continue  # ended, or a kernel thread that cannot be moved
    try:
        yield
    finally:
        for tid, allowed in moved.items():
            try:
                os.sched_setaffinity(tid, allowed)
            except OSError:
                continue


@contextmanager
def interrupts_put_back() -> Iterator[None]:
    """They are the machine's, not the cluster's: what the layers moved does not go with the cluster."""
    files = [Path("/proc/irq/default_smp_affinity"), *Path("/proc/irq").glob("[0-9]*/smp_affinity")]
    before = {file: file.read_text() for file in files}
    try:
        yield
    finally:
        for file, text in before.items():
            try:
                if file.read_text() != text:
                    file.write_text(text)
            except OSError as error:
                print(f"bench: {file} stays as it is: {error.strerror}", file=sys.stderr)


def usage(cluster: Cluster, uid: str) -> tuple[int, int]:
    """Nanoseconds on the core so far: pods but the owner's, and the node outside pods."""
    root = "/sys/fs/cgroup/cpuacct"
    line = f"cut -d' ' -f{CORE + 1} {root}/cpuacct.usage_percpu {root}/kubepods/cpuacct.usage_percpu"
    line += f" $(find {root}/kubepods -maxdepth 2 -name '*{uid}*')/cpuacct.usage_percpu"
    everything, pods, owner = (int(number) for number in cluster.on_node(1, line).split())
    return pods - owner, everything - pods


def steal() -> float:
    """Milliseconds for which the hypervisor gave the core to others."""
    row = next(row for row in Path("/proc/stat").read_text().splitlines() if row.startswith(f"cpu{CORE} "))
    return int(row.split()[8]) * 1000 / os.sysconf("SC_CLK_TCK")


def measure(cluster: Cluster, owner: Pod, noise: list[tuple[str, ...]]) -> Json:
    """One cell: medians over its seconds."""
    names = [f"noise{number}" for number in range(len(noise))]
    if noise:
        apply(cluster, [pod(name, tuple(words), request) for name, (request, *words) in zip(names, noise, strict=True)])
    time.sleep(2)
    begin, (pods, daemons), stolen = time.time(), usage(cluster, owner.uid), steal()
    time.sleep(SECONDS)
    end, (pods_now, daemons_now), stolen_now = time.time(), usage(cluster, owner.uid), steal()
    if noise:
        cluster.kubectl("delete", "pod", *names, "--grace-period=0", "--force")
        wait_for("the noise is gone", lambda: len(cluster.get("pods")["items"]) == 1)
    rows = [json.loads(line) for line in owner.logs.splitlines()]
    rows = [row for row in rows if begin + 1 <= row["time"] <= end]
    found = {key: statistics.median(row[key] for row in rows) for key in ("wait", "p50", "p99", "max", "served")}
    seconds = (end - begin) * 1e6
    return found | {
        "foreign_pods_ms": (pods_now - pods) / seconds,
        "daemons_ms": (daemons_now - daemons) / seconds,
        "steal_ms": (stolen_now - stolen) / (end - begin),
    }


def run(cluster: Cluster, number: int) -> Iterator[Json]:
    """All layers once, in random order, each beside all noises in random order."""
    for layer in random.sample(list(LAYERS), len(LAYERS)):
        isolated, layers = LAYERS[layer]
        configure(cluster, layers)
        command = ("python3", "-u", "/bench/probe.py")
        words = ("/opt/cmk/cmk", "isolate", "--pool=exclusive", *command) if isolated else command
        apply(cluster, [pod("owner", words, cores=1 if isolated else 0)])
        owner = Pod(cluster, "owner")
        try:
            with world_elsewhere():
                for noise in random.sample(list(NOISE), len(NOISE)):
                    row = {"round": number, "layer": layer, "noise": noise} | measure(cluster, owner, NOISE[noise])
                    print(
                        f"  {layer:16}{noise:24}wait {row['wait'] * 100:5.1f} %  p99 {row['p99']:8.2f} ms",
                        file=sys.stderr,
                        flush=True,
                    )
                    yield row
        finally:
            owner.delete()


def table(rows: list[Json]) -> Iterator[str]:
    """Medians over the rounds: waiting in per cent and p99 in milliseconds, then foreign time on the core."""
    noises = list(NOISE)
    yield "| waits % / p99 ms | " + " | ".join(noises) + " |"
    yield "|---|" + "---|" * len(noises)
    for layer in LAYERS:
        yield (
            f"| {layer} | "
            + " | ".join(
                f"{mid(rows, layer, noise, 'wait') * 100:.1f} / {mid(rows, layer, noise, 'p99'):.1f}" for noise in noises
            )
            + " |"
        )
    yield ""
    yield "| other pods / host on the core, ms per s | " + " | ".join(noises) + " |"
    yield "|---|" + "---|" * len(noises)
    for layer in LAYERS:
        cells = (
            f"{mid(rows, layer, noise, 'foreign_pods_ms'):.1f} / {mid(rows, layer, noise, 'daemons_ms'):.1f}" for noise in noises
        )
        yield f"| {layer} | " + " | ".join(cells) + " |"


def mid(rows: list[Json], layer: str, noise: str, field: str) -> float:
    """Median of a cell over the rounds."""
    return statistics.median(float(row[field]) for row in rows if (row["layer"], row["noise"]) == (layer, noise))


def main(rounds: int, output: Path) -> None:
    """Measure and write table, raw data and plot. Told to end, it puts back what it moved first."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cluster = Cluster("cmk-bench")
    cluster.script("up", "1")
    try:
        cluster.kubectl(
            "create", "configmap", "bench", *(f"--from-file={REPO}/scripts/bench.d/{name}.py" for name in ("probe", "noise"))
        )
        with interrupts_put_back():
            rows = [row for number in range(rounds) for row in run(cluster, number)]
    finally:
        cluster.script("down")
    with (output / "isolation.csv").open("w") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()} for row in rows
        )
    cells = {layer: {noise: mid(rows, layer, noise, "wait") for noise in NOISE} for layer in LAYERS}
    (output / "isolation.svg").write_text(draw(cells, "Share of its runnable time that the owner of a core waits for it"))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
