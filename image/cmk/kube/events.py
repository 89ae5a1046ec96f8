"""Kubernetes Events about nodes and pods, which ``kubectl describe`` shows."""

from __future__ import annotations

from datetime import UTC, datetime

from cmk.kube.client import Api, Json
from cmk.model.pods import Pod

# The API's namespace for Events about cluster-scoped objects.
_DEFAULT = "default"
_MAX_MESSAGE = 1024


def send(api: Api, node: str, reason: str, message: str, *, warning: bool = True, pod: Pod | None = None) -> None:
    """Record an Event about a node, or about a pod on it; raises ApiError."""
    event = body(node, reason, message, warning=warning, pod=pod)
    api.create(f"/api/v1/namespaces/{event['metadata']['namespace']}/events", event)


def body(node: str, reason: str, message: str, *, warning: bool = True, pod: Pod | None = None) -> Json:
    """The Event as an object. Its uid of a node is the node's name, as in kubelet's Events; kubectl looks for this."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about: Json = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node}
    if pod is not None:
        about = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "namespace": pod.namespace, "uid": pod.uid}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{about['name'][:200]}.", "namespace": about.get("namespace", _DEFAULT)},
        "involvedObject": about,
        "type": "Warning" if warning else "Normal",
        "reason": reason,
        "message": message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}...",
        "source": {"component": "cmk", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
