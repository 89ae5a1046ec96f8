"""A cluster of two nodes with the chart of this tree: node1 has one exclusive core, node2 (by its host section) one shared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import AGENTS, NAMESPACE, REPO, Cluster, wait_for

VALUES = Path(__file__).parent / "values.yaml"


@pytest.fixture(scope="session")
def bare() -> Iterator[Cluster]:
    """Two ready nodes, cmk's image loaded, nothing installed."""
    image = Path(os.environ["CMK_CACHE"]) / "images/cmk.tar"
    subprocess.run([REPO / "scripts/build-image", "--lab", "--output", image], check=True)
    subprocess.run([REPO / "scripts/tools", "helm", "kubernetes"], check=True)
    cluster = Cluster("cmk-test")
    cluster.script("up", "2")
    yield cluster
    if "CMK_KEEP" not in os.environ:
        cluster.script("down")


@pytest.fixture(scope="session")
def installed(bare: Cluster) -> Cluster:
    """The chart is installed and no node selected."""
    bare.helm("install", "cmk", str(REPO / "charts/cmk"), "-n", NAMESPACE, "--create-namespace", "-f", str(VALUES), "--wait")
    return bare


@pytest.fixture(scope="session")
def cluster(installed: Cluster) -> Cluster:
    """Both nodes are selected and prepared."""
    for node in ("node1", "node2"):
        prepare(installed, node)
    return installed


@pytest.fixture
def interrupts() -> Iterator[None]:
    """New interrupts may go everywhere, whatever this machine had: there is something to move."""
    default = Path("/proc/irq/default_smp_affinity")
    before = default.read_text()
    default.write_text("3")
    yield
    default.write_text(before)


def prepare(cluster: Cluster, node: str) -> None:
    """Put a node into the selection and wait until it is ready."""
    cluster.kubectl("label", "node", node, "cmk-node=enabled", "--overwrite")
    wait_for(f"{node} is prepared", lambda: cluster.find("cmk-nodereport", node))
    wait_for(f"agent of {node} is ready", lambda: _ready_agents(cluster, node) == 1)


def _ready_agents(cluster: Cluster, node: str) -> int:
    pods = cluster.get("pods", "-n", NAMESPACE, "-l", AGENTS, "--field-selector", f"spec.nodeName={node}")["items"]
    return sum(all(status["ready"] for status in pod["status"].get("containerStatuses") or [{"ready": False}]) for pod in pods)
