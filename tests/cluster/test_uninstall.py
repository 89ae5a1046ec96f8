"""The README's way out; and without it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import NAMESPACE, REPO, RESOURCE, Cluster, Json, wait_for
from tests.cluster.conftest import clear, install
from tests.cluster.layers import configure, cpusets, everything, layer
from tests.cluster.nodes import prepare

# What a host has without us, and what a pod of the moment does not change.
Untouched = dict[str, str]


def with_all_layers(cluster: Cluster) -> Untouched:
    """Switch on all that this kernel can; returns how everything was before."""
    configure(cluster, pods=False)
    wait_for("pods are as they were", lambda: layer(cluster, "pods") == "off")
    before = untouched(cluster)
    configure(cluster, pods=True, host="affinity", irqs="on")
    wait_for("all layers are on", lambda: {layer(cluster, name) for name in ("pods", "host", "irqs")} == {"on"})
    now = untouched(cluster)
    assert now["irqs"] != before["irqs"]
    assert now != before | {"irqs": now["irqs"]}
    return before


def untouched(cluster: Cluster) -> Untouched:
    return {name: value for name, value in everything(cluster).items() if "pod" not in name}


def assert_as_before(cluster: Cluster, before: Untouched) -> None:
    now = untouched(cluster)
    assert {name: now[name] for name in before if name in now} == {name: before[name] for name in before if name in now}
    assert set(cpusets(cluster).values()) == {"0-1"}
    assert cluster.on_node(1, "ls /var/lib/cmk/isolation.json", check=False) == ""


@pytest.fixture
def prepared(running: Cluster) -> Iterator[Cluster]:
    """Installed and both nodes selected; nothing is left to the next test."""
    install(running)
    for node in ("node1", "node2"):
        prepare(running, node)
    yield running
    clear(running)


@pytest.mark.usefixtures("interrupts")
def test_uninstalled_while_nodes_are_still_selected_isolation_is_undone(prepared: Cluster) -> None:
    cluster = prepared
    before = with_all_layers(cluster)
    cluster.helm("uninstall", "cmk", "-n", NAMESPACE, "--wait")
    wait_for("the agent is gone", lambda: not cluster.agent_pids(1))
    assert_as_before(cluster, before)


@pytest.mark.usefixtures("interrupts")
def test_the_way_out_leaves_nothing_on_the_nodes(prepared: Cluster) -> None:
    cluster = prepared
    before = with_all_layers(cluster)
    text = (REPO / "README.md").read_text()
    steps = text.split("## Uninstall")[1].split("```")[1].strip().splitlines()
    assert [line.split()[0] for line in steps] == ["kubectl", "kubectl", "helm"]
    for line in steps:
        cluster.script("run", *line.split())
    assert_as_before(cluster, before)
    for node in cluster.get("nodes")["items"]:
        assert_untouched_node(cluster, node)
    assert cluster.get("clusterroles", "-l", "app.kubernetes.io/name=cmk")["items"] == []
    for kind in ("daemonsets", "deployments", "jobs", "roles", "poddisruptionbudgets"):
        assert cluster.get(kind, "-n", NAMESPACE)["items"] == []
    assert cluster.get("mutatingwebhookconfigurations")["items"] == []
    # What hooks and keeper made goes with the Deployment.
    wait_for("Secret and Lease are collected", lambda: not cluster.get("secrets,leases", "-n", NAMESPACE)["items"])


def assert_untouched_node(cluster: Cluster, node: Json) -> None:
    assert not [name for name in node["metadata"]["labels"] if "cmk" in name]
    assert not [taint for taint in node["spec"].get("taints") or [] if taint["key"] == "cmk"]
    assert RESOURCE not in {**node["status"]["capacity"], **node["status"]["allocatable"]}
    number = int(node["metadata"]["name"].removeprefix("node"))
    assert cluster.on_node(number, "ls -A /opt/cmk /opt/bin /etc/cmk | grep -v :$ | grep .", check=False) == ""
