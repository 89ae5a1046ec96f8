"""The NodeReport's content: what the agent knows, in words an operator can act on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from cmk import __version__
from cmk.agent.history import Entry
from cmk.agent.node_layout import NodeLayout, Pending
from cmk.agent.watches import Seen
from cmk.isolation.layers import Layers
from cmk.kube.client import Json
from cmk.model import node_state, report
from cmk.model.isolation_config import LayerState
from cmk.model.layout import SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.node_state import NodeState
from cmk.model.pods import Pod
from cmk.model.reasons import Obstacle, Reason
from cmk.model.report import Condition


def body(
    node: NodeLayout,
    ledger: Ledger | None,
    layers: Layers | None,
    seen: Seen,
    current: Json | None,
    path: str,
    pods: Iterable[Pod] = (),
    history: Iterable[Entry] = (),
) -> Json | None:
    """``spec`` and ``status`` of the report, or None while there is nothing to say. ``current`` is the object as stored."""
    saved = node.saved
    if saved is not None and ledger is not None and layers is not None:
        states = layers.states()
        conditions = [*_served(saved, node.pending, seen), *report.isolation_conditions(states)]
        spec = report.node_report(ledger, node.topology, path)
        details = {
            "configHash": saved.section.hash,
            "scope": saved.scope,
            "pending": msgspec.to_builtins(node.pending) if node.pending else {},
            "values": [f"{node.name}: {value}" for value in saved.section.values()],
            "pools": report.pool_counts(ledger),
            "warnings": list(saved.layout.warnings),
            "isolation": {
                "layers": {name: _shown(layer) for name, layer in states.items()},
                "driftsRepaired": layers.drift,
                "besideTasks": layers.beside_tasks(),
            },
        }
    elif node.reason is not None:
        conditions = [Condition("Ready", False, node.reason, node.problem)]
        spec = {
            "checks": {"configDirectory": {"errors": [node.problem], "ok": False}},
            "description": {"path": path, "pools": {}},
            "topology": report.describe_topology(node.topology),
        }
        details = {}
    else:
        return None
    old = ((current or {}).get("status") or {}).get("conditions") or []
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    status: Json = {
        "agentVersion": __version__,
        "conditions": report.merge_conditions(old, conditions, now),
        "isolatedFrom": list(node.topology.isolated_from),
        "history": [msgspec.to_builtins(entry) for entry in history],
        "state": node_state.dump(_state(node, ledger, seen, pods)),
        **details,
    }
    return {"spec": {"report": spec}, "status": status}


def _state(node: NodeLayout, ledger: Ledger | None, seen: Seen, pods: Iterable[Pod]) -> NodeState:
    tasks = sorted(ledger.tasks.values(), key=lambda task: task.process) if ledger else []
    layout, section = (ledger.layout, node.saved.section) if ledger and node.saved else (None, None)
    bound, labels = node_state.mattering(pods, tasks), dict(sorted(seen.labels.items()))
    return NodeState(node.topology, layout, section, tuple(tasks), bound, node.outside, labels)


def _shown(layer: LayerState) -> Json:
    shown: Json = {"state": layer.state}
    if layer.reason:
        shown["reason"] = layer.reason
    if layer.left:
        shown["left"] = list(layer.left)
    return shown


def _served(saved: SavedLayout, pending: Pending | None, seen: Seen) -> list[Condition]:
    ready = Condition("Ready", True, Reason.SERVING, f"serves pools {', '.join(sorted(saved.layout.pools))}")
    if seen.error:
        return [ready, Condition("ConfigApplied", False, Obstacle.CONFIG_INVALID, seen.error), _refused("")]
    if pending is not None:
        refused = pending.text if pending.reason is Obstacle.CONFIG_REFUSED else ""
        return [ready, Condition("ConfigApplied", False, pending.reason, pending.text), _refused(refused)]
    if seen.chosen and not seen.chosen.section.same_pools(saved.section):
        text = f"configuration {seen.chosen.section.hash} of {seen.chosen.scope} is about to be applied"
        return [ready, Condition("ConfigApplied", False, Reason.CHANGING, text), _refused("")]
    return [ready, Condition("ConfigApplied", True, Reason.APPLIED, f"from {saved.scope}"), _refused("")]


def _refused(text: str) -> Condition:
    return Condition("ConfigRefused", bool(text), Reason.REFUSED if text else Reason.NONE, text)
