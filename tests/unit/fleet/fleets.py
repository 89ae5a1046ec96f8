"""Nodes and configurations for tests of many nodes."""

from __future__ import annotations

from typing import Any

from cmk.fleet.preview import Node
from cmk.model import layout, node_state
from cmk.model.config import ClusterConfig, PoolConfig, Section, Selection
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
    return Node(
        name,
        {},
        {"status": {"configHash": held.hash, "scope": "default", "agentVersion": "1", "state": node_state.dump(state), **status}},
    )
