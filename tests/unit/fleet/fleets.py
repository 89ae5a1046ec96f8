"""Nodes and configurations for tests of many nodes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cmk.fleet.preview import Node
from cmk.model import layout, report, report_state, short_topology
from cmk.model.config import ClusterConfig, PoolConfig, Section, Selection
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.node_state import NodeState
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology

DEFINITION = Path(__file__).parents[3] / "charts/cmk/charts/crds/templates/nodereports.yaml"
TOPOLOGY = Topology(tuple(Core(number, number // 2, frozenset({number, number + 4})) for number in range(4)))
POD = Pod("uid-1", "ns", "web", {"cmk.intel.com/exclusive-cores": 1})
TASK = Task(Process(17, 1), "exclusive", ("1,5",), "uid-1", "c" * 64)


def section(exclusive: int, hash_: str = "", **more: Any) -> Section:  # noqa: ANN401
    return Section(
        {"exclusive": PoolConfig(exclusive, exclusive=True), "infra": PoolConfig("rest")}, hash_ or f"h{exclusive}", **more
    )


def config(exclusive: int, **more: Any) -> ClusterConfig:  # noqa: ANN401
    return ClusterConfig(Selection(all=True), section(exclusive, **more))


def node(name: str, exclusive: int = 2, tasks: tuple[Task, ...] = (), pods: tuple[Pod, ...] = (), **status: Any) -> Node:  # noqa: ANN401
    """One that serves so many exclusive cores."""
    held = section(exclusive)
    state = NodeState(TOPOLOGY, layout.for_section(held, TOPOLOGY, {}, frozenset()), held, tasks, pods)
    found = report_of(state)
    return Node(
        name,
        {},
        found | {"status": {"configHash": held.hash, "scope": "default", "agentVersion": "1", **found["status"], **status}},
    )


def report_of(state: NodeState) -> dict[str, Any]:
    """What a report has of a state."""
    pools = state.layout or Layout({})
    description = report.describe(Ledger(pools, state.tasks), "/state")
    whole = {
        "spec": {"report": {"description": description, "topology": short_topology.dump(state.topology)}},
        "status": {"isolatedFrom": state.topology.isolated_from, "state": report_state.dump(state, description)},
    }
    return dict(json.loads(json.dumps(whole, sort_keys=True)))


def report_table(found: Mapping[str, Any]) -> dict[str, Any]:
    """NodeReports, by the names of their nodes, as the table with the columns of the chart's definition."""
    text = re.search(
        r"additionalPrinterColumns:\n((?: +[-#].*\n)+)", DEFINITION.read_text()
    )  # the file is a template around them
    assert text
    columns: list[dict[str, str]] = yaml.safe_load(text[1])
    rows = [[name, *(_value(column["jsonPath"], report) for column in columns)] for name, report in found.items()]
    return table(["Name", *(column["name"] for column in columns)], rows)


def table(names: list[str], rows: list[list[Any]]) -> dict[str, Any]:
    """A table as the API server has it."""
    columns = [{"name": name, "type": "string", "format": "", "description": "", "priority": 0} for name in names]
    kind = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "1"}}
    return kind | {"columnDefinitions": columns, "rows": [{"cells": row, "object": None} for row in rows]}


def _value(path: str, found: Any) -> Any:  # noqa: ANN401  # JSON
    """What the API server finds by a path of a column."""
    for key, kind in re.findall(r"\.(\w+)(?:\[\?\(@\.type==\"(\w+)\"\)\])?", path):
        found = (found or {}).get(key)
        if kind:
            found = next((item for item in found or [] if item["type"] == kind), None)
    return found
