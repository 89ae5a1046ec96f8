"""All nodes of the cluster with their NodeReports, page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from cmk.fleet.preview import Node
from cmk.kube import reports
from cmk.kube.client import NOT_FOUND, Api, ApiError, Json
from cmk.kube.node import labels

NODES = "/api/v1/nodes"
# Objects per page. Reports are long: those of a large cluster are never in memory together.
_NODES, _REPORTS = "500", "50"


def nodes(api: Api) -> Iterator[Node]:
    """Every node, with its report if it has one, in no particular order; raises ApiError."""
    without_report = {item["metadata"]["name"]: _node(item) for item in pages(api.get, NODES, _NODES)}
    try:
        for report in pages(api.get, reports.PATH, _REPORTS):
            if node := without_report.pop(report["metadata"]["name"], None):
                yield msgspec.structs.replace(node, report=report)
    except ApiError as error:
        if error.status != NOT_FOUND:  # before the first installation the cluster has no definition of NodeReports
            raise
    yield from without_report.values()


def pages(get: Callable[..., Json], path: str, limit: str, **params: str) -> Iterator[Json]:
    """Items of a list that ``get`` gets page by page; raises ApiError."""
    position: dict[str, str] = {}
    while True:
        page = get(path, limit=limit, **params, **position)
        yield from page.get("items") or []
        token = (page.get("metadata") or {}).get("continue")
        if not token:
            return
        position = {"continue": token}


def _node(node: Json) -> Node:
    conditions = (node.get("status") or {}).get("conditions") or []
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return Node(node["metadata"]["name"], labels(node), None, ready and not node["spec"].get("unschedulable"))
