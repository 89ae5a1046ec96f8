"""The progress of a roll-out: for each node whether it has the configuration, is waited for, or has failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cmk.fleet.preview import Node
from cmk.model import config
from cmk.model.config import ClusterConfig, ConfigError, Host
from cmk.model.reasons import Obstacle

APPLIED, PAUSED, NOT_READY, WAITING = "applied", "paused", "not ready", "waiting"
REFUSED, IMPOSSIBLE, LATE = "refused", "impossible", "not in time"
_FAILED = (REFUSED, IMPOSSIBLE, LATE)
# What an agent's answer means for the roll-out. A node is waited for only where the agent itself waits for something that ends by itself.
STATES: Mapping[str, str] = {
    Obstacle.CONFIG_INVALID: IMPOSSIBLE,
    Obstacle.LAYOUT_IMPOSSIBLE: IMPOSSIBLE,
    Obstacle.CONFIG_REFUSED: REFUSED,
    Obstacle.MACHINE_CHANGED: WAITING,
    Obstacle.PAUSED: PAUSED,
    Obstacle.WAITING: WAITING,
    Obstacle.OLD_CMK_RUNS: WAITING,
    Obstacle.ADOPTION_REFUSED: IMPOSSIBLE,
    Obstacle.STATE_UNUSABLE: IMPOSSIBLE,
}


class Row(msgspec.Struct, frozen=True):
    """The state of one node, for the table that the hook verify prints."""

    node: str
    state: str
    scope: str = ""
    text: str = ""

    @property
    def failed(self) -> bool:
        """Whether the node counts as a failure."""
        return self.state in _FAILED


def row_of(wanted: ClusterConfig, hosts: Mapping[str, Host], node: Node, version: str) -> Row:
    """The state of a node, from its report. ``version`` is that of the agents that are to report."""
    try:
        chosen = config.choose(wanted, hosts, node.name, node.labels)
    except ConfigError as error:
        return Row(node.name, IMPOSSIBLE, text=str(error))
    status, scope = node.status, chosen.scope
    pending = status.get("pending") or {}
    ready, text = _condition(status, "Ready"), _text_of(status)
    if status.get("agentVersion") == version:
        if status.get("configHash") == chosen.section.hash:
            return Row(node.name, APPLIED, scope)
        current = pending.get("hash") == chosen.section.hash
        state = STATES.get(str((pending if current else ready).get("reason")), WAITING)
        if state != WAITING:
            return Row(node.name, state, scope, text if current else str(ready.get("message") or ""))
    if not node.ready:
        return Row(node.name, NOT_READY, scope, "not waited for: the node is not ready or takes no pods")
    return Row(node.name, WAITING, scope, _why(status, text, ready, version))


def allowed(text: str, nodes: int) -> int:
    """How many of ``nodes`` may fail: a number, or a percentage of them, rounded down; raises ConfigError."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    if not (number.isascii() and number.isdigit()) or (percent and int(number) > 100):
        raise ConfigError(f"verify.maxFailures: {text!r} is neither a number of nodes nor a percentage such as 5%")
    return nodes * int(number) // 100 if percent else int(number)


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((item for item in status.get("conditions") or [] if item.get("type") == kind), {})


def _text_of(status: Mapping[str, Any]) -> str:
    """Why the pending configuration is not applied. Older agents have it in ``pending``, others in one of two conditions."""
    pending = status.get("pending") or {}
    kind = "ConfigRefused" if pending.get("reason") == Obstacle.CONFIG_REFUSED else "ConfigApplied"
    return str(pending.get("text") or (pending and _condition(status, kind).get("message")) or "")


def _why(status: Mapping[str, Any], text: str, ready: Mapping[str, Any], version: str) -> str:
    if not status:
        return "no agent has reported: look at its pod"
    if ready.get("status") == "False":
        return str(ready.get("message") or "")
    if status.get("agentVersion") != version:
        return f"its agent is still {status.get('agentVersion')}, not {version}"
    return text or f"its agent still reports {status.get('configHash') or 'no configuration'}"
