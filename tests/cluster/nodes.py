"""What the API says of a node, its agent and its report; and how a node becomes a CMK node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cmk.model import config, report_state
from cmk.model.node_state import NodeState
from tests.cluster.cluster import AGENTS, NAMESPACE, Cluster, Json, wait_for


def prepare(cluster: Cluster, node: str) -> None:
    """Put a node into the selection and wait until it is ready."""
    cluster.kubectl("label", "node", node, "cmk-node=enabled", "--overwrite")
    wait_for(f"{node} serves", lambda: cluster.find("cmk-nodereport", node) and condition(cluster, node, "Ready"))
    wait_for(f"{node} has its pools", lambda: condition(cluster, node, "ConfigApplied").get("status") == "True")
    wait_for(f"agent of {node} is ready", lambda: _ready_agents(cluster, node) == 1)


def leave(cluster: Cluster, node: str) -> None:
    """Take a node out of the selection and wait until its agent has undone everything."""
    cluster.kubectl("label", "node", node, "cmk-node-")
    wait_for(f"{node} has left", lambda: cluster.find("cmk-nodereport", node) is None)


def agent(cluster: Cluster, node: str) -> Json:
    """The pod of a node's agent, and how often it was started."""
    (pod,) = cluster.get("pods", "-n", NAMESPACE, "-l", AGENTS, "--field-selector", f"spec.nodeName={node}")["items"]
    return {"uid": pod["metadata"]["uid"], "restarts": pod["status"]["containerStatuses"][0]["restartCount"]}


def status(cluster: Cluster, node: str = "node1") -> Json:
    """The status of a node's report."""
    return dict(cluster.get("cmk-nodereport", node)["status"])


def state(cluster: Cluster, node: str = "node1") -> NodeState:
    """What a node's report tells a plan."""
    found = report_state.load(cluster.get("cmk-nodereport", node))
    assert found is not None
    return found


def condition(cluster: Cluster, node: str, kind: str) -> Json:
    """A condition of a node's report, empty while there is none."""
    conditions = cluster.get("cmk-nodereport", node).get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == kind), {})


def everything_of(cluster: Cluster, node: str) -> dict[str, Any]:
    """What may not move when another node changes: the agent, what it reports, the node's marks, and its layout."""
    found = cluster.get("node", node)
    number = int(node.removeprefix("node"))
    report = cluster.get("cmk-nodereport", node)
    return {
        "agent": agent(cluster, node),
        "report": {key: report[key] for key in ("spec", "status")},
        "labels": found["metadata"]["labels"],
        "taints": found["spec"].get("taints"),
        "resources": {name: value for name, value in found["status"]["capacity"].items() if "cmk" in name},
        "layout": cluster.on_node(number, "cat /var/lib/cmk/layout.json"),
    }


def settle(cluster: Cluster) -> None:
    """Until every node has the release's configuration, and its report tells what there is."""
    for report in cluster.get("cmk-nodereports")["items"]:
        name = report["metadata"]["name"]
        wait_for(f"the report of {name} is what there is", lambda: _is_current(cluster, name))  # noqa: B023  # called at once


def _is_current(cluster: Cluster, node: str) -> bool:
    """Reports follow what changes by some seconds: a section, a label, a pod that has gone."""
    report, labels = cluster.get("cmk-nodereport", node), cluster.get("node", node)["metadata"]["labels"]
    known, keys = report_state.labels_of(report)
    parsed = config.parse_cluster(_text(cluster, "cmk-config", "config.json"))
    hosts = config.parse_hosts(_text(cluster, f"cmk-hosts-{config.shard_of(node):02}", "hosts.json") or "{}")
    section = config.choose(parsed, hosts, node, labels).section
    pods = {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in cluster.api.request("GET", "/api/v1/pods")["items"]
    }
    found = report_state.load(report)
    return (
        condition(cluster, node, "ConfigApplied").get("status") == "True"
        and report["status"]["configHash"] == section.hash
        and report["status"]["values"] == [f"{node}: {value}" for value in section.values()]
        and known == {key: labels[key] for key in keys or () if key in labels}
        and (found is None or pods.issuperset(map(str, found.pods)))
    )


def webhook_pods(cluster: Cluster) -> list[str]:
    """Ready ones that nobody deletes and that the Service has: a ready pod is among its endpoints a moment later."""
    slices = cluster.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=cmk-webhook")["items"]
    served = {item["targetRef"]["name"] for found in slices for item in found["endpoints"] or [] if item["conditions"]["ready"]}
    return [
        item["metadata"]["name"]
        for item in _webhooks(cluster)
        if "deletionTimestamp" not in item["metadata"] and _is_ready(item) and item["metadata"]["name"] in served
    ]


@contextmanager
def no_webhook(cluster: Cluster) -> Iterator[None]:
    """No webhook pod at all; both are back afterwards."""
    scale = ("scale", "-n", NAMESPACE, "deployment", "cmk-webhook")
    cluster.kubectl(*scale, "--replicas=0")
    try:
        wait_for("no webhook", lambda: not webhook_pods(cluster))
        yield
    finally:
        cluster.kubectl(*scale, "--replicas=2")
        wait_for("both webhooks are back", lambda: len(webhook_pods(cluster)) == 2)


def leaving_webhook_pods(cluster: Cluster) -> list[str]:
    """Those that are being deleted: they answer on for some seconds, by the settings they have."""
    return [item["metadata"]["name"] for item in _webhooks(cluster) if "deletionTimestamp" in item["metadata"]]


def _webhooks(cluster: Cluster) -> list[Json]:
    return list(cluster.get("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=webhook")["items"])


def _ready_agents(cluster: Cluster, node: str) -> int:
    pods = cluster.get("pods", "-n", NAMESPACE, "-l", AGENTS, "--field-selector", f"spec.nodeName={node}")["items"]
    return sum(_is_ready(pod) for pod in pods)


def _is_ready(pod: Json) -> bool:
    return all(found["ready"] for found in pod["status"].get("containerStatuses") or [{"ready": False}])


def _text(cluster: Cluster, name: str, key: str) -> str:
    """What a ConfigMap of the release has, empty if there is none."""
    found = cluster.find("configmap", name, "-n", NAMESPACE)
    return str(found["data"][key]) if found else ""
