"""All nodes of the cluster with their NodeReports, page by page."""

from __future__ import annotations

from collections.abc import Iterator

from cmk.kube import reports
from cmk.kube.client import NOT_FOUND, Api, ApiError, Json
from cmk.kube.node import labels
from cmk.model.fleet import Node

NODES = "/api/v1/nodes"
_PAGE = "200"


def nodes(api: Api) -> list[Node]:
    """Every node, with its report if it has one; raises ApiError."""
    found = {item["metadata"]["name"]: item for item in _reports(api)}
    return [_seen(item, found.get(item["metadata"]["name"])) for item in _pages(api, NODES)]


def _reports(api: Api) -> Iterator[Json]:
    try:
        yield from _pages(api, reports.PATH)
    except ApiError as error:
        if error.status != NOT_FOUND:  # no definitions yet: the chart's first time in this cluster
            raise


def _pages(api: Api, path: str) -> Iterator[Json]:
    more: dict[str, str] = {}
    while True:
        page = api.get(path, limit=_PAGE, **more)
        yield from page.get("items") or []
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return
        more = {"continue": token}


def _seen(node: Json, report: Json | None) -> Node:
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return Node(node["metadata"]["name"], labels(node), report, ready and not node["spec"].get("unschedulable"))
