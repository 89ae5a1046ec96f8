"""What the API says of a node, its agent and its report; and how a node becomes a CMK node."""

from __future__ import annotations

import json
from typing import Any

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
    """Until node1, which no section of its own says otherwise of, has the default of the release's configuration."""

    def has_it() -> bool:
        wanted = stored(cluster, "cmk-config", "config.json")["default"]["hash"]
        return status(cluster)["configHash"] == wanted and condition(cluster, "node1", "ConfigApplied").get("status") == "True"

    wait_for("node1 has its configuration", has_it)


def webhook_pods(cluster: Cluster) -> list[str]:
    """Ready ones that nobody deletes."""
    return [
        item["metadata"]["name"] for item in _webhooks(cluster) if "deletionTimestamp" not in item["metadata"] and _is_ready(item)
    ]


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


def stored(cluster: Cluster, name: str, key: str) -> Json:
    """JSON out of a ConfigMap of the release."""
    return dict(json.loads(cluster.get("configmap", "-n", NAMESPACE, name)["data"][key]))
