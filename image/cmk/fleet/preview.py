"""The preview of a configuration: a plan for every node of the cluster, and notes for the operator, before anything is applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from enum import StrEnum
from typing import Any

import msgspec

from cmk.model import config, cpuset, report_state
from cmk.model.config import Chosen, ClusterConfig, ConfigError, Host
from cmk.model.layout import Layout, LayoutError
from cmk.model.node_state import NodeState, NodeStateError
from cmk.model.plan import Plan


class Outcome(StrEnum):
    """The effect on one node.

    ``new``: no agent has reported yet. ``unknown``: the report is of an agent that is too old for a plan. ``leaves``: the node is no longer
    selected.
    """

    SAME = "same"
    CHANGES = "changes"
    REFUSED = "refused"
    IMPOSSIBLE = "impossible"
    PAUSED = "paused"
    NEW = "new"
    UNKNOWN = "unknown"
    LEAVES = "leaves"


class Node(msgspec.Struct, frozen=True):
    """A node, from the API or from a file. ``report`` is its NodeReport, if any. ``ready``: its kubelet is ready and pods are scheduled.

    ``labels_known`` are the keys of labels of which it is known whether the node has them, None for all.
    """

    name: str
    labels: Mapping[str, str]
    report: Mapping[str, Any] | None = None
    ready: bool = True
    labels_known: frozenset[str] | None = None

    @property
    def status(self) -> Mapping[str, Any]:
        """The report's status."""
        return (self.report or {}).get("status") or {}


class PoolChange(msgspec.Struct, frozen=True):
    """A pool's CPU lists before and after, in the kernel's list format; None: the pool does not exist."""

    before: list[str] | None
    after: list[str] | None


class TaskMove(msgspec.Struct, frozen=True):
    """A task that moves from the CPUs ``before`` to ``after``, both in the kernel's list format."""

    pid: int
    pool: str
    before: str
    after: str
    pod: str = ""
    container: str = ""


class NodePlan(msgspec.Struct, frozen=True):
    """The plan for one node. ``text`` says what is in the way, if anything is; ``pools`` has only pools that change."""

    node: str
    outcome: Outcome
    scope: str = ""
    hash: str = ""
    text: str = ""
    pools: dict[str, PoolChange] = {}
    moves: list[TaskMove] = []
    stays: int = 0

    @property
    def blocks_upgrade(self) -> bool:
        """Whether this node is a reason to refuse an upgrade. An impossible one is not: the node serves no tasks that could lose CPUs."""
        return self.outcome is Outcome.REFUSED


class FleetPlan(msgspec.Struct, frozen=True):
    """The plans for all nodes, and notes on the configuration as a whole."""

    nodes: list[NodePlan]
    notes: list[str] = []

    @property
    def blocking(self) -> list[NodePlan]:
        """Plans of the nodes for which an upgrade has to be refused."""
        return [node for node in self.nodes if node.blocks_upgrade]

    @property
    def changes(self) -> bool:
        """Whether the pools of any node would change."""
        return any(node.outcome in (Outcome.CHANGES, Outcome.NEW, Outcome.LEAVES) for node in self.nodes)


def plan(wanted: ClusterConfig, hosts: Mapping[str, Host], nodes: Iterable[Node]) -> FleetPlan:
    """Plan for the nodes that are selected or have a report. Reads one node after the other: all reports at once would fill the memory."""
    plans: list[NodePlan] = []
    names: set[str] = set()
    about_nodes: list[str] = []
    for node in nodes:
        names.update(config.names_of(node.name, node.labels))
        if node.report is not None or wanted.selection.matches(node.name, node.labels):
            state = _state_of(node)
            plans.append(_plan_one(wanted, hosts, node, state))
            about_nodes += [*_losing(node, plans[-1]), *_not_listed(node.name, state)]
    return FleetPlan(sorted(plans, key=lambda plan: plan.node), [*unmatched(hosts, names), *sorted(about_nodes)])


def unmatched(hosts: Mapping[str, Host], names: Set[str]) -> list[str]:
    """A note for each section of ``hosts`` whose name no node has."""
    return [f"{hosts[name].scope or f'hosts.{name}'} matches no node" for name in sorted(hosts.keys() - names)]


def _state_of(node: Node) -> NodeState | NodeStateError | None:
    try:
        state = report_state.load(node.report or {})
    except NodeStateError as error:
        return error
    return state and msgspec.structs.replace(state, labels=dict(node.labels))


def _plan_one(wanted: ClusterConfig, hosts: Mapping[str, Host], node: Node, state: NodeState | NodeStateError | None) -> NodePlan:
    if node.labels_known is not None and (missing := wanted.labels_used - node.labels_known):
        text = (
            f"its report does not tell whether it has the labels {', '.join(sorted(missing))}, by which the configuration chooses: "
            "plan for the cluster, or save nodes as well (kubectl get nodes,cmk-nr -o json)"
        )
        return NodePlan(node.name, Outcome.UNKNOWN, text=text)
    if not wanted.selection.matches(node.name, node.labels):
        text = "not selected any more: its agent removes label, taint, resources and report once no bound pod needs them"
        return NodePlan(node.name, Outcome.LEAVES, text=text)
    try:
        chosen = config.choose(wanted, hosts, node.name, node.labels)
    except ConfigError as error:
        return NodePlan(node.name, Outcome.REFUSED, text=str(error))
    about = NodePlan(node.name, Outcome.NEW, chosen.scope, chosen.section.hash)
    if node.report is None:
        return about
    if state is None:
        return _but(about, Outcome.UNKNOWN, _why_no_state(node))
    if isinstance(state, NodeStateError):
        return _but(about, Outcome.UNKNOWN, f"its report cannot be read: {state}")
    try:
        layout, change = state.plan(chosen)
    except (ConfigError, LayoutError) as error:
        serves = bool(node.status.get("configHash"))
        text = f"{error}; set hosts.{node.name}.pools in the chart's values"
        return _but(about, Outcome.REFUSED if serves else Outcome.IMPOSSIBLE, text)
    return _compared(about, chosen, state, layout, change)


def _compared(about: NodePlan, chosen: Chosen, state: NodeState, layout: Layout, change: Plan) -> NodePlan:
    pools = pool_changes(state.layout, layout)
    if change.refusals:
        text = "; ".join(refusal.text for refusal in change.refusals)
        return _but(about, Outcome.PAUSED if chosen.section.paused else Outcome.REFUSED, text, pools=pools)
    pods = {uid: str(pod) for pod in state.pods for uid in (pod.uid, pod.config_hash) if uid}
    moves = [
        TaskMove(
            move.task.process.pid,
            move.task.pool,
            cpuset.kernel_list(move.old),
            cpuset.kernel_list(move.new),
            pods.get(move.task.pod, move.task.pod),
            move.task.container[:12],
        )
        for move in change.moves
    ]
    outcome = Outcome.CHANGES if pools else Outcome.SAME
    if pools and chosen.section.paused:
        return _but(about, Outcome.PAUSED, "paused: nothing is done until paused is false", pools=pools)
    return _but(about, outcome, "", pools=pools, moves=moves, stays=len(change.keeps))


def pool_changes(before: Layout | None, after: Layout) -> dict[str, PoolChange]:
    """The pools that differ, by name."""
    old = before.pools if before else {}
    names = sorted(old.keys() | after.pools.keys())
    return {
        name: PoolChange(_lists(old, name), _lists(after.pools, name)) for name in names if old.get(name) != after.pools.get(name)
    }


def _lists(pools: Mapping[str, Any], name: str) -> list[str] | None:
    return [cpuset.kernel_list(item.cpus) for item in pools[name].lists] if name in pools else None


def _but(about: NodePlan, outcome: Outcome, text: str, **more: Any) -> NodePlan:  # noqa: ANN401  # fields of the struct
    return msgspec.structs.replace(about, outcome=outcome, text=text, **more)


def _why_no_state(node: Node) -> str:
    for condition in node.status.get("conditions") or []:
        if condition.get("type") == "Reduced" and condition.get("status") == "True":
            return f"its report is reduced: {condition.get('message')}; its agent itself refuses what would take cores from tasks"
    return "its agent is of a version that cannot change pools: the pools stay until the agent is replaced"


def _not_listed(name: str, state: NodeState | NodeStateError | None) -> list[str]:
    counts = state.not_listed if isinstance(state, NodeState) else {}
    return [
        f"{name}: {count} more tasks of pool {pool} are counted in its report, but not listed" for pool, count in counts.items()
    ]


def _losing(node: Node, plan: NodePlan) -> list[str]:
    before = str(node.status.get("scope") or "")
    if not before.startswith("hosts.") or not plan.scope or plan.scope.startswith("hosts."):
        return []
    return [f"{node.name} has no section of its own any more: instead of {before} it gets {plan.scope}"]
