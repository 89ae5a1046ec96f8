"""How far a node has come on its way to the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from cmk.fleet.preview import Node
from cmk.model import config
from cmk.model.config import ClusterConfig, ConfigError, Host
from cmk.model.reasons import Obstacle

APPLIED, PAUSED, NOT_READY, WAITING = "applied", "paused", "not ready", "waiting"
REFUSED, IMPOSSIBLE, SILENT = "refused", "impossible", "no answer"
_FAILED = (REFUSED, IMPOSSIBLE, SILENT)
# What an agent's answer means for the roll-out. A node is waited for only where the agent itself waits for something that ends by itself.
STATES: Mapping[str, str] = {
    Obstacle.CONFIG_INVALID: IMPOSSIBLE,
    Obstacle.LAYOUT_IMPOSSIBLE: IMPOSSIBLE,
    Obstacle.CONFIG_REFUSED: REFUSED,
    Obstacle.PAUSED: PAUSED,
    Obstacle.WAITING: WAITING,
    Obstacle.OLD_CMK_RUNS: IMPOSSIBLE,
    Obstacle.ADOPTION_REFUSED: IMPOSSIBLE,
}


class Row(msgspec.Struct, frozen=True):
    """How one node is doing."""

    node: str
    state: str
    scope: str = ""
    text: str = ""

    @property
    def failed(self) -> bool:
        """Whether it counts as a failure."""
        return self.state in _FAILED


def row(wanted: ClusterConfig, hosts: Mapping[str, Host], node: Node, version: str) -> Row:
    """One node as it is now."""
    try:
        chosen = config.choose(wanted, hosts, node.name, node.labels)
    except ConfigError as error:
        return Row(node.name, IMPOSSIBLE, text=str(error))
    status, scope = node.status, chosen.scope
    pending = status.get("pending") or {}
    ready: Mapping[str, Any] = next((item for item in status.get("conditions") or [] if item.get("type") == "Ready"), {})
    if status.get("agentVersion") == version:
        if status.get("configHash") == chosen.section.hash:
            return Row(node.name, APPLIED, scope)
        current = pending.get("hash") == chosen.section.hash
        reason, text = (pending.get("reason"), pending.get("text")) if current else (ready.get("reason"), ready.get("message"))
        state = STATES.get(str(reason), WAITING)
        if state != WAITING:
            return Row(node.name, state, scope, str(text or ""))
    if not node.ready:
        return Row(node.name, NOT_READY, scope, "not waited for: the node is not ready or takes no pods")
    return Row(node.name, WAITING, scope, _why(status, pending, ready, version))


def allowed(text: str, nodes: int) -> int:
    """How many nodes may fail: a number, or so many percent of all; raises ConfigError."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    if not (number.isascii() and number.isdigit()) or (percent and int(number) > 100):
        raise ConfigError(f"{text!r} is neither a number of nodes nor a percentage")
    return nodes * int(number) // 100 if percent else int(number)


def _why(status: Mapping[str, Any], pending: Mapping[str, Any], ready: Mapping[str, Any], version: str) -> str:
    if not status:
        return "no agent has reported: look at its pod"
    if ready.get("status") == "False":
        return str(ready.get("message") or "")
    if status.get("agentVersion") != version:
        return f"its agent is still {status.get('agentVersion')}, not {version}"
    return str(pending.get("text") or "") or f"its agent still reports {status.get('configHash') or 'no configuration'}"
