from __future__ import annotations

from typing import Any

from cmk.kube import events
from cmk.model.pods import Pod
from tests.unit.kube.apiserver import serving

POD = Pod("uid-1", "ns", "web", {})


def sent(**more: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401
    with serving((201, {})) as server:
        events.send(server.api, "node1", "Reason", "x" * 2000, **more)
    ((method, path, _, body, _),) = server.seen
    assert method == "POST"
    assert body is not None
    return path, body


def test_about_a_node() -> None:
    path, body = sent()
    assert path == "/api/v1/namespaces/default/events"
    assert body["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "node1"}
    assert (body["type"], body["reason"], len(body["message"])) == ("Warning", "Reason", 1024)


def test_about_a_pod_where_the_pod_is() -> None:
    path, body = sent(warning=False, pod=POD)
    assert path == "/api/v1/namespaces/ns/events"
    assert body["metadata"] == {"generateName": "web.", "namespace": "ns"}
    assert body["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "name": "web", "namespace": "ns", "uid": "uid-1"}
    assert body["type"] == "Normal"
