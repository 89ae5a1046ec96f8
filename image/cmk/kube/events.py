"""Events on the Node object: what an operator sees with ``kubectl describe node``."""

from __future__ import annotations

from datetime import UTC, datetime

from cmk.kube.client import Api, Json

# Events about cluster-scoped objects live there by the API's rule.
PATH = "/api/v1/namespaces/default/events"
_MAX_MESSAGE = 1024


def warn(api: Api, node: str, reason: str, message: str) -> None:
    """Record a Warning about a node; raises ApiError."""
    api.create(PATH, body(node, reason, message))


def body(node: str, reason: str, message: str) -> Json:
    """The Event; a node's events carry its name for a uid, as kubelet's do and kubectl expects."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{node[:200]}.", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node},
        "type": "Warning",
        "reason": reason,
        "message": message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}...",
        "source": {"component": "cmk", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
