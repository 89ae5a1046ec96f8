"""Nodes and configurations for tests of many nodes."""

from __future__ import annotations

import json
from typing import Any

from cmk.fleet.preview import Node
from cmk.model import layout, report, report_state, short_topology
from cmk.model.config import ClusterConfig, PoolConfig, Section, Selection
from cmk.model.layout import Layout
from cmk.model.ledger import Ledger
from cmk.model.node_state import NodeState
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology

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
