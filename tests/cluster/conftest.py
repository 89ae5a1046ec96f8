"""One cluster of two nodes for all files; each file says in which state it wants it, whatever file came before.

``bare``: nothing is installed. ``installed``: the chart of this tree, and no node selected. ``cluster``: both nodes are prepared as well,
node1 with one exclusive core, node2 (by its host section) with one shared.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.cluster import CHART, NAMESPACE, REPO, VALUES, Cluster, own_name, wait_for
from tests.cluster.nodes import prepare, settle, webhook_pods
from tests.cluster.on_failure import pytest_runtest_makereport  # noqa: F401  # a hook

IMAGE = Path(os.environ["CMK_CACHE"]) / "images/cmk.tar"


@pytest.fixture(scope="session")
def name() -> Iterator[str]:
    """The cluster's name."""
    with own_name("cmk-test") as name:
        yield name


@pytest.fixture(scope="session")
def tools() -> None:
    """Whatever the tests run is built: image, Kubernetes, both Helms."""
    subprocess.run([REPO / "scripts/build-image", "--lab", "--output", IMAGE], check=True)
    subprocess.run([REPO / "scripts/tools", "helm", "helm3", "kubernetes"], check=True)


@pytest.fixture(scope="session")
def running(tools: None, name: str) -> Iterator[Cluster]:
    """Two ready nodes with today's image. One that ``CMK_KEEP`` left is used again, without what it had installed."""
    cluster = Cluster(name)
    kept = "CMK_KEEP" in os.environ and cluster.script("kubectl", "get", "--raw", "/readyz", check=False).returncode == 0
    if kept:
        cluster.script("load", str(IMAGE))
        clear(cluster)
    else:
        cluster.script("up", "2")
    yield cluster
    cluster.api.close()
    if "CMK_KEEP" not in os.environ:
        cluster.script("down")


@pytest.fixture(scope="module")
def bare(running: Cluster) -> Cluster:
    """Two ready nodes, cmk's image loaded, nothing installed."""
    clear(running)
    return running


@pytest.fixture(scope="module")
def installed(running: Cluster) -> Cluster:
    """The chart is installed and no node selected."""
    deselect(running)
    install(running)
    return running


@pytest.fixture(scope="module")
def cluster(running: Cluster) -> Cluster:
    """Both nodes are selected and prepared."""
    install(running)
    for node in ("node1", "node2"):
        prepare(running, node)
    settle(running)
    wait_for("two webhook pods are ready", lambda: len(webhook_pods(running)) == 2)
    return running


@pytest.fixture
def interrupts() -> Iterator[None]:
    """New interrupts may go everywhere, whatever this machine had: there is something to move."""
    default = Path("/proc/irq/default_smp_affinity")
    before = default.read_text()
    default.write_text("3")
    yield
    default.write_text(before)


def install(cluster: Cluster) -> None:
    """The release as the tests want it, however the file before left it."""
    listed = json.loads(cluster.helm("list", "-n", NAMESPACE, "-o", "json"))
    if [(item["name"], item["status"]) for item in listed] == [("cmk", "deployed")]:
        values = json.loads(cluster.helm("get", "values", "cmk", "-n", NAMESPACE, "-o", "json"))
        if values == yaml.safe_load(VALUES.read_text()):
            return
    line = ("upgrade", "--install", "cmk", str(CHART), "-n", NAMESPACE, "--create-namespace", "--reset-values", "-f", str(VALUES))
    cluster.helm(*line, "--wait")


def deselect(cluster: Cluster) -> None:
    """No node is a CMK node."""
    cluster.kubectl("label", "node", "--all", "cmk-node-")
    if cluster.find("crd", "cmk-nodereports.cmk.intel.com"):
        wait_for("no report is left", lambda: not cluster.get("cmk-nodereports")["items"])


def clear(cluster: Cluster) -> None:
    """Nothing is installed, in whatever namespace."""
    deselect(cluster)
    for item in json.loads(cluster.helm("list", "--all-namespaces", "-o", "json")):
        cluster.helm("uninstall", item["name"], "-n", item["namespace"], "--wait")
    wait_for("its pods are gone", lambda: not cluster.find("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=cmk"))
