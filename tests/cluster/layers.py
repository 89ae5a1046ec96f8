"""Layers of isolation on the cluster's nodes: switched, told by the report, and seen by what they change on a host."""

from __future__ import annotations

import json

from tests.cluster.cluster import Cluster, wait_for
from tests.cluster.nodes import status

CPUSETS = "/sys/fs/cgroup/cpuset/kubepods"


def configure(cluster: Cluster, **layers: str | bool) -> None:
    """``helm upgrade`` with these layers, then wait until node1's agent has them."""
    settings = [f"isolation.{name}={str(value).lower()}" for name, value in layers.items()]
    cluster.upgrade("--no-hooks", "--wait", *(word for setting in settings for word in ("--set", setting)))
    wanted = {f"node1: isolation.{name}={json.dumps(value).strip(chr(34))} from values" for name, value in layers.items()}
    wait_for(
        "the configuration has arrived", lambda: wanted <= set(status(cluster)["values"]) and len(cluster.agent_pids(1)) == 1
    )


def layer(cluster: Cluster, name: str, node: str = "node1") -> str:
    return str(status(cluster, node)["isolation"]["layers"][name]["state"])


def cpusets(cluster: Cluster, number: int = 1) -> dict[str, str]:
    """What every group below kubepods may use; those that go while we look are left out."""
    line = f"cd {CPUSETS}; for d in $(find . -type d 2>/dev/null); do cpus=$(cat $d/cpuset.cpus 2>/dev/null) && echo $d $cpus; done; true"
    rows = (row.split(maxsplit=1) for row in cluster.on_node(number, line).splitlines())
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


def everything(cluster: Cluster) -> dict[str, str]:
    """What the layers change: cpusets, interrupts, processes of the host."""
    irqs = cluster.on_node(1, "cd /proc/irq; grep -H . default_smp_affinity */smp_affinity_list")
    names = "containerd|kubelet|kube-proxy|containerd-shim"
    # Some end between the two looks: their threads are left out.
    line = f"for p in $(pgrep -x '{names}'); do grep -Hs Cpus_allowed_list /proc/$p/task/*/status; done; true"
    processes = {row.split("/")[2]: row.split()[-1] for row in cluster.on_node(1, line).splitlines()}
    return cpusets(cluster) | {"irqs": irqs} | processes
