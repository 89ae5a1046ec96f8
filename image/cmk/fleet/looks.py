"""Looks at a roll-out: what tells its progress of each node, as the tables that kubectl prints, which are a fiftieth of the objects.

Labels are read once, and again of nodes that come later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cmk.fleet import cluster_nodes
from cmk.fleet.preview import Node
from cmk.kube import reports
from cmk.kube.client import NOT_FOUND, Api, ApiError, Json
from cmk.kube.node import labels

# Of any age: the API server answers from its memory, whose pages have no limit.
_ANY_AGE = {"resourceVersion": "0"}
_NOW: Mapping[str, str] = {}
_METADATA_PER_PAGE = "500"
_FEW = 10
_READY = "Ready"
# Columns of the definition of NodeReports, and where their values are in a report.
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "Agent": ("agentVersion",),
    "Config": ("configHash",),
    "Pending": ("pending", "hash"),
    "Pending-Reason": ("pending", "reason"),
    "Ready": ("conditions", "Ready", "status"),
    "Ready-Reason": ("conditions", "Ready", "reason"),
    "Ready-Text": ("conditions", "Ready", "message"),
    "Applied-Text": ("conditions", "ConfigApplied", "message"),
    "Refused-Text": ("conditions", "ConfigRefused", "message"),
}


class Looks:
    """Each call is a look: every node, with what its report says of the roll-out, in no particular order. Raises ApiError.

    What it sees may have been so a moment ago, unless ``is_certain``.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._labels: dict[str, Mapping[str, str]] = {}
        self._has_columns = True

    def __call__(self, is_certain: bool) -> Iterable[Node]:
        """Look once."""
        age = _NOW if is_certain else _ANY_AGE
        statuses = self._statuses(age) if self._has_columns else None
        if statuses is None:  # the cluster has a definition of NodeReports from before
            self._has_columns = False
            return cluster_nodes.nodes(self._api)
        return self._nodes(statuses, age)

    def _nodes(self, statuses: Mapping[str, Json], age: Mapping[str, str]) -> Iterator[Node]:
        rows = self._api.table(cluster_nodes.NODES, **age)
        self._read_labels([row["Name"] for row in rows if row["Name"] not in self._labels])
        for row in rows:
            name = row["Name"]
            if name in self._labels:
                report = {"status": statuses[name]} if name in statuses else None
                yield Node(name, self._labels[name], report, row["Status"] == _READY)

    def _read_labels(self, names: list[str]) -> None:
        """Read the labels of new nodes: one by one, or those of all nodes if many are new."""
        if names and (not self._labels or len(names) > _FEW):
            self._labels |= self._labels_of()
        else:
            for name in names:
                self._labels |= self._labels_of(fieldSelector=f"metadata.name={name}")

    def _labels_of(self, **params: str) -> dict[str, Mapping[str, str]]:
        items = cluster_nodes.pages(self._api.metadata, cluster_nodes.NODES, _METADATA_PER_PAGE, **params)
        return {item["metadata"]["name"]: labels(item) for item in items}

    def _statuses(self, age: Mapping[str, str]) -> dict[str, Json] | None:
        """The part of each report's status that columns have, by name; None if a column is missing."""
        try:
            rows = self._api.table(reports.PATH, **age)
        except ApiError as error:
            if error.status != NOT_FOUND:  # the cluster has no definition of NodeReports
                raise
            return {}
        if any(column not in row for row in rows[:1] for column in _COLUMNS):
            return None
        return {row["Name"]: _status(row) for row in rows}


def _status(row: Mapping[str, Any]) -> Json:
    conditions: dict[str, Json] = {}
    status: Json = {}
    for column, (place, *below) in _COLUMNS.items():
        value = row[column]
        if value in (None, ""):
            continue
        if place == "conditions":
            kind, key = below
            conditions.setdefault(kind, {"type": kind})[key] = value
        elif below:
            status.setdefault(place, {})[below[0]] = value
        else:
            status[place] = value
    return {**status, "conditions": [*conditions.values()]} if conditions else status
