"""NodeReports of nodes on which every exclusive core has a task in a pod, as the agent writes them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cmk.agent import node_report
from cmk.agent.files import StateFiles
from cmk.agent.history import MOST, Entry
from cmk.agent.node_layout import NodeLayout, Wanted
from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.agent.stalls import Stalls
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.ledger import Ledger
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task
from tests.unit.agent.harness import options_in
from tests.unit.machines import machine

LABELS = {f"feature.node.kubernetes.io/cpu-cpuid.F{number}": "true" for number in range(100)}


def full_report(root: Path, cpus: int, pods: int, shared_tasks: int = 0, waiting: Iterable[Pod] = ()) -> dict[str, Any]:
    """The report of a node with two sockets: all cores but two are exclusive, and their tasks are spread over so many pods.

    ``waiting`` are pods that are bound too, and hold nothing.
    """
    root.mkdir(exist_ok=True)
    dice = random.Random(cpus)  # noqa: S311  # the same report each time
    topology = machine(sockets=2, cores=cpus // 4)
    layout = NodeLayout("worker-0", StateFiles(options_in(root), Procfs()), topology)
    pools = {"exclusive": PoolConfig(cpus // 2 - 2, exclusive=True), "shared": PoolConfig(1), "infra": PoolConfig("rest")}
    section = Section(pools, "0123456789abcdef", origins={"exclusive.cores": "hosts.worker-0"})
    bound = [_pod(dice) for _ in range(pods)]
    now = Observed(
        node={"metadata": {"name": "worker-0", "labels": LABELS}},
        chosen=Chosen(section, "hosts.worker-0"),
        labels_used=frozenset({"cmk-node"}),
        pods={pod.uid: pod for pod in (*bound, *waiting)},
    )
    wanted = layout.wanted(now)
    assert isinstance(wanted, Wanted)
    layout.keep(wanted.saved)
    exclusive, shared = (wanted.saved.layout.pools[name].lists for name in ("exclusive", "shared"))
    names = [("exclusive", item.name) for item in exclusive] + [("shared", shared[0].name)] * shared_tasks
    pids = dice.sample(range(1_000_000, 4_194_304), len(names))
    tasks = [
        Task(Process(pid, 77_000_000 + number), pool, (name,), bound[number % pods].uid, f"{dice.getrandbits(256):064x}")
        for number, (pid, (pool, name)) in enumerate(zip(pids, names, strict=True))
    ]
    ledger = Ledger(wanted.saved.layout, tasks)
    options = Options("worker-0", "ns", "config", "hosts", *[Path("/nowhere")] * 4)
    layers = Layers(options.host_paths, Procfs(), ledger, topology, lambda: None)
    content = node_report.served(layout, wanted.saved, ledger, layers, None, now, "/var/lib/cmk")
    history = [Entry("2026-01-01T00:00:00Z", "0123456789abcdef", "fedcba9876543210", 12, 345, "applied")] * MOST
    return node_report.body(layout, content, None, Stalls(), history=history)


def bytes_of(value: Any) -> int:  # noqa: ANN401  # values of JSON
    """Bytes of a value as the API server stores it."""
    return len(json.dumps(value, separators=(",", ":")))


def parts(body: dict[str, Any]) -> dict[str, int]:
    """Bytes by part of a report."""
    both = {f"report.{key}": value for key, value in body["spec"]["report"].items()} | body["status"]
    return {key: bytes_of(value) for key, value in both.items()} | {"all": bytes_of(body)}


def _pod(dice: random.Random) -> Pod:
    number = f"{dice.getrandbits(128):032x}"
    uid = "-".join((number[:8], number[8:12], number[12:16], number[16:20], number[20:]))
    name = "".join(dice.choices("bcdfghjklmnpqrstvwxz2456789", k=15))
    return Pod(uid, "default", f"dataplane-{name[:10]}-{name[10:]}", {"cmk.intel.com/exclusive-cores": 1})
