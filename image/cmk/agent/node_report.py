"""The content of the NodeReport: what the agent knows of its node, in words that an operator can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from cmk import __version__
from cmk.agent.change_pools import Pending
from cmk.agent.history import Entry
from cmk.agent.node_layout import Impossible, NodeLayout
from cmk.agent.observed import Observed
from cmk.agent.stalls import Stalls
from cmk.isolation.layers import Layers
from cmk.kube.client import Json
from cmk.model import config, node_state, report, report_state, short_topology
from cmk.model.isolation_config import LayerState
from cmk.model.layout import SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.node_state import NodeState
from cmk.model.reasons import Obstacle, Reason
from cmk.model.report import Condition, Reduction, Refusal

# Tasks of a shared pool that are listed: anybody may have any number of them, and etcd takes 1.5 MiB.
MOST_TASKS = 200
# Of what may be as long as workloads make it: texts that name them, and lists; of processes and interrupts there are many.
MOST_ITEMS = 200
MOST_PROCESSES = 50
LONGEST_TEXT = 1000
# Of ten outcomes in the history the newest is in a condition too, at length.
LONGEST_OUTCOME = 200
_ALWAYS = ("agentVersion", "conditions", "configHash", "scope", "pending", "pools")
NOT_REFUSED = Refusal()


class Content(NamedTuple):
    """What depends on whether the node serves. ``spec`` has the report in the shape of CMK 1.5.x, but for the topology.

    ``details`` are fields of ``status``, ``state`` is one too; ``not_listed`` is how many tasks of which pool are counted only.
    """

    conditions: list[Condition]
    spec: Json
    state: Json
    details: Json
    not_listed: Mapping[str, int] = {}


def served(
    node: NodeLayout,
    saved: SavedLayout,
    ledger: Ledger,
    layers: Layers,
    pending: Pending | None,
    observed: Observed,
    path: str,
    refusal: Refusal = NOT_REFUSED,
    troubles: Iterable[str] = (),
) -> Content:
    """Content for a node that serves workloads on a saved layout. ``troubles``: what does not work in directories of the host."""
    states = layers.states()
    most = MOST_TASKS if refusal.reduction is Reduction.NONE else 0
    tasks, not_listed = node_state.listed_tasks(ledger.tasks.values(), ledger.layout, most)
    pods = node_state.relevant_pods(observed.pods.values(), tasks, ledger.layout)
    description = report.describe(ledger, path, {task.process for task in tasks})
    state = NodeState(
        node.topology, ledger.layout, saved.section, tasks, pods, node.outside, observed.labels, not_listed, bool(node.changed)
    )
    return Content(
        [*_served(saved, pending, observed), *report.isolation_conditions(states)],
        _spec(node, report.check(ledger, node.topology, saved.topology), description),
        report_state.dump(state, description, config.BUILT_IN_LABELS | observed.labels_used),
        {
            "configHash": saved.section.hash,
            "scope": saved.scope,
            "pending": {"hash": pending.hash, "reason": pending.reason.value} if pending else {},
            "values": [f"{node.name}: {value}" for value in saved.section.values()],
            "pools": report.pool_counts(ledger),
            "warnings": [*saved.layout.warnings, *troubles],
            "isolation": report.bounded(
                {
                    "layers": {name: _shown(layer) for name, layer in states.items()},
                    "driftsRepaired": layers.drift,
                    "besideTasks": layers.beside_tasks(),
                },
                LONGEST_TEXT,
                MOST_PROCESSES,
            ),
        },
        not_listed,
    )


def refused(node: NodeLayout, refusal: Impossible, observed: Observed, path: str) -> Content:
    """Content for a node that has no layout and serves nothing."""
    description: Json = {"path": path, "pools": {}}
    state = NodeState(node.topology, outside=node.outside, labels=observed.labels)
    return Content(
        [Condition("Ready", False, refusal.reason, refusal.text)],
        _spec(node, [refusal.text], description),
        report_state.dump(state, description, config.BUILT_IN_LABELS | observed.labels_used),
        {},
    )


def _spec(node: NodeLayout, errors: list[str], description: Json) -> Json:
    return {
        "checks": report.checks(report.bounded(errors, LONGEST_TEXT, MOST_PROCESSES)),
        "description": description,
        "topology": short_topology.dump(node.topology),
    }


def body(
    node: NodeLayout,
    content: Content,
    stored: Json | None,
    stalls: Stalls,
    refusal: Refusal = NOT_REFUSED,
    history: Iterable[Entry] = (),
) -> Json:
    """``spec`` and ``status`` of the report. ``stored`` is the object as it is now: conditions that stay keep their times.

    Of a report that was refused even without tasks of shared pools only conditions, counts and what names the configuration is left.
    """
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [*content.conditions, report.reduced_condition(refusal, content.not_listed)]
    status: Json = {
        "agentVersion": __version__,
        "conditions": report.merge_conditions(_conditions(stored), conditions, now),
        "isolatedFrom": list(node.topology.isolated_from),
        "eventLoop": stalls.shown(),
        "history": report.bounded([msgspec.to_builtins(entry) for entry in history], LONGEST_OUTCOME, MOST_ITEMS),
        **content.details,
    }
    status = report.bounded(status, LONGEST_TEXT, MOST_ITEMS)
    whole: Json = {"spec": {"report": content.spec}, "status": {**status, "state": content.state}}
    if refusal.reduction is Reduction.PLAN:
        whole = {"spec": {"report": {}}, "status": {key: status[key] for key in _ALWAYS if key in status}}
    # With lists in place of tuples it equals what the API server has, and is not written again.
    plain: Json = msgspec.json.decode(msgspec.json.encode(whole))
    return plain


def _conditions(stored: Json | None) -> list[Json]:
    """Conditions as they are stored; whoever may write reports may have written others."""
    status = (stored or {}).get("status")
    conditions = status.get("conditions") if isinstance(status, dict) else None
    found = conditions if isinstance(conditions, list) else []
    return [item for item in found if isinstance(item, dict) and isinstance(item.get("type"), str)]


def _shown(layer: LayerState) -> Json:
    shown: Json = {"state": layer.state}
    if layer.reason:
        shown["reason"] = layer.reason
    if layer.left:
        shown["left"] = list(layer.left)
    return shown


def _served(saved: SavedLayout, pending: Pending | None, observed: Observed) -> list[Condition]:
    ready = Condition("Ready", True, Reason.SERVING, f"serves pools {', '.join(sorted(saved.layout.pools))}")
    if observed.error:
        return [ready, Condition("ConfigApplied", False, Obstacle.CONFIG_INVALID, observed.error), _refused("")]
    if pending is not None:
        is_refused = pending.reason is Obstacle.CONFIG_REFUSED
        text = "refused: see condition ConfigRefused" if is_refused else pending.text
        return [ready, Condition("ConfigApplied", False, pending.reason, text), _refused(pending.text if is_refused else "")]
    if observed.chosen and not observed.chosen.section.same_pools(saved.section):
        text = f"configuration {observed.chosen.section.hash} of {observed.chosen.scope} is about to be applied"
        return [ready, Condition("ConfigApplied", False, Reason.CHANGING, text), _refused("")]
    return [ready, Condition("ConfigApplied", True, Reason.APPLIED, f"from {saved.scope}"), _refused("")]


def _refused(text: str) -> Condition:
    return Condition("ConfigRefused", bool(text), Reason.REFUSED if text else Reason.NONE, text)
