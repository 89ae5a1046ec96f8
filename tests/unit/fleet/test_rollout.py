from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cmk.fleet import rollout
from cmk.fleet.preview import Node
from cmk.model.config import ClusterConfig, ConfigError, Host, Selection
from cmk.model.reasons import Obstacle
from tests.unit.fleet.fleets import config, node, section


def pending(reason: Obstacle, text: str, hash_: str = "h2") -> dict[str, Any]:
    is_refused = reason is Obstacle.CONFIG_REFUSED
    applied = {"type": "ConfigApplied", "status": "False", "message": "refused: see ..." if is_refused else text}
    refused = {"type": "ConfigRefused", "status": str(is_refused), "message": text if is_refused else ""}
    return {"pending": {"hash": hash_, "reason": reason.value}, "conditions": [applied, refused]}


def pending_of_an_older_agent(reason: Obstacle, text: str) -> dict[str, Any]:
    return {"pending": {"hash": "h2", "reason": reason.value, "text": text}}


def not_ready(reason: Obstacle, message: str) -> dict[str, Any]:
    return {"configHash": "", "conditions": [{"type": "Ready", "status": "False", "reason": reason.value, "message": message}]}


@pytest.mark.parametrize(
    ("status", "state", "text"),
    [
        ({}, "applied", ""),
        ({"configHash": "h1"}, "waiting", "its agent still reports h1"),
        ({"configHash": ""}, "waiting", "its agent still reports no configuration"),
        ({"agentVersion": "0"}, "waiting", "its agent is still 0, not 1"),
        ({"configHash": "h1", **pending(Obstacle.CONFIG_REFUSED, "why")}, "refused", "why"),
        ({"configHash": "h1", **pending(Obstacle.CONFIG_REFUSED, "old", "h0")}, "waiting", "old"),
        ({"configHash": "h1", **pending(Obstacle.LAYOUT_IMPOSSIBLE, "few")}, "impossible", "few"),
        ({"configHash": "h1", **pending(Obstacle.PAUSED, "p")}, "paused", "p"),
        ({"configHash": "h1", **pending(Obstacle.WAITING, "turn")}, "waiting", "turn"),
        ({"configHash": "h1", **pending_of_an_older_agent(Obstacle.CONFIG_REFUSED, "why")}, "refused", "why"),
        (not_ready(Obstacle.LAYOUT_IMPOSSIBLE, "4 cores"), "impossible", "4 cores"),
        (not_ready(Obstacle.OLD_CMK_RUNS, "an old CMK runs"), "waiting", "an old CMK runs"),
        (not_ready(Obstacle.ADOPTION_REFUSED, "odd pools"), "impossible", "odd pools"),
        ({"agentVersion": "0", **not_ready(Obstacle.ADOPTION_REFUSED, "odd pools")}, "waiting", "odd pools"),
    ],
)
def test_how_a_node_is_doing(status: dict[str, Any], state: str, text: str) -> None:
    found = rollout.row_of(config(2), {}, node("a", **status), "1")
    assert (found.state, found.text) == (state, text)


def test_every_obstacle_has_a_meaning_for_the_roll_out() -> None:
    assert set(rollout.STATES) == set(Obstacle)


def test_a_node_that_takes_no_pods_is_not_waited_for_until_its_turn_comes() -> None:
    status = {"configHash": "h1", **pending(Obstacle.WAITING, "turn")}
    assert rollout.row_of(config(2), {}, msgspec.structs.replace(node("a", **status), ready=False), "1").state == "not ready"


def test_a_node_without_report_is_waited_for_unless_it_is_not_ready() -> None:
    silent = Node("a", {})
    assert rollout.row_of(config(2), {}, silent, "1").state == "waiting"
    assert rollout.row_of(config(2), {}, msgspec.structs.replace(silent, ready=False), "1").state == "not ready"


def test_a_node_that_is_not_ready_may_have_it_all_the_same() -> None:
    assert rollout.row_of(config(2), {}, msgspec.structs.replace(node("a"), ready=False), "1").state == "applied"


def test_a_host_of_no_group_is_no_configuration() -> None:
    host = Host({"big": section(1)}, group="none")
    assert rollout.row_of(ClusterConfig(Selection(all=True), section(2)), {"a": host}, node("a"), "1").state == "impossible"


@pytest.mark.parametrize(("text", "nodes", "number"), [("0", 10, 0), ("3", 10, 3), ("25%", 10, 2), ("100%", 3, 3), ("5%", 10, 0)])
def test_failures_allowed(text: str, nodes: int, number: int) -> None:
    assert rollout.allowed(text, nodes) == number


@pytest.mark.parametrize("text", ["", "-1", "x", "101%", "5 %"])
def test_what_is_no_number_of_failures(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a number of nodes nor a percentage"):
        rollout.allowed(text, 1)
