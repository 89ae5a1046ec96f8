from __future__ import annotations

from cmk.fleet import cluster_nodes
from cmk.kube import reports
from tests.unit.kube.apiserver import serving


def item(name: str, ready: str = "True", **spec: object) -> dict[str, object]:
    return {
        "metadata": {"name": name, "labels": {"a": name}},
        "spec": spec,
        "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": ready}]},
    }


def test_nodes_come_page_by_page_with_their_reports() -> None:
    report = {"metadata": {"name": "two"}, "status": {"configHash": "x"}}
    ghost = {"metadata": {"name": "gone"}}
    with serving(
        (200, {"items": [item("one")], "metadata": {"continue": "more"}}),
        (200, {"items": [item("two", "Unknown"), item("three", unschedulable=True)], "metadata": {}}),
        (200, {"items": [ghost, report], "metadata": {}}),
    ) as server:
        found = list(cluster_nodes.nodes(server.api))
    assert [(node.name, node.ready, node.report) for node in found] == [
        ("two", False, report),
        ("one", True, None),
        ("three", False, None),
    ]
    assert found[1].labels == {"a": "one"}
    assert [(path, query) for _, path, query, *_ in server.seen] == [
        ("/api/v1/nodes", {"limit": "500"}),
        ("/api/v1/nodes", {"limit": "500", "continue": "more"}),
        (reports.PATH, {"limit": "50"}),
    ]


def test_without_our_definitions_there_are_no_reports() -> None:
    with serving((200, {"items": [item("one")]}), (404, {"message": "no such resource"})) as server:
        assert [node.report for node in cluster_nodes.nodes(server.api)] == [None]
