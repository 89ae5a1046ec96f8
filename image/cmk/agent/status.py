"""The NodeReport's content: what the agent knows, in words an operator can act on."""

from __future__ import annotations

from datetime import UTC, datetime

from cmk import __version__
from cmk.agent.cluster import Seen
from cmk.agent.layers import Layers
from cmk.agent.nodelayout import NodeLayout
from cmk.kube.client import Json
from cmk.model import report
from cmk.model.isolation import LayerState
from cmk.model.layout import SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.report import Condition


def body(
    node: NodeLayout, ledger: Ledger | None, layers: Layers | None, seen: Seen, current: Json | None, path: str
) -> Json | None:
    """``spec`` and ``status`` of the report, or None while there is nothing to say. ``current`` is the object as stored."""
    saved = node.saved
    if saved is not None and ledger is not None and layers is not None:
        states = layers.states()
        conditions = [*_served(saved, seen), *report.isolation_conditions(states)]
        spec = report.node_report(ledger, node.topology, path)
        details = {
            "configHash": saved.section.hash,
            "scope": saved.scope,
            "values": [f"{node.name}: {value}" for value in saved.section.values()],
            "pools": report.pool_counts(ledger),
            "warnings": list(saved.layout.warnings),
            "isolation": {
                "layers": {name: _shown(layer) for name, layer in states.items()},
                "driftsRepaired": layers.drift,
                "besideTasks": layers.beside(),
            },
        }
    elif node.problem:
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
        **details,
    }
    return {"spec": {"report": spec}, "status": status}


def _shown(layer: LayerState) -> Json:
    shown: Json = {"state": layer.state}
    if layer.reason:
        shown["reason"] = layer.reason
    if layer.left:
        shown["left"] = list(layer.left)
    return shown


def _served(saved: SavedLayout, seen: Seen) -> list[Condition]:
    ready = Condition("Ready", True, "Serving", f"serves pools {', '.join(sorted(saved.layout.pools))}")
    if seen.error:
        return [ready, Condition("ConfigApplied", False, "ConfigInvalid", seen.error)]
    if seen.chosen and not seen.chosen.section.same_pools(saved.section):
        text = (
            f"configuration {seen.chosen.section.hash} of {seen.chosen.scope} asks for other pools; the node keeps the layout of "
            f"{saved.section.hash}, because this version does not move pools: take the node out of the selection and put it in again"
        )
        return [ready, Condition("ConfigApplied", False, "LayoutKept", text)]
    return [ready, Condition("ConfigApplied", True, "Applied", f"from {saved.scope}")]
