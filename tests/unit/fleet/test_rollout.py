from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cmk.fleet import rollout
from cmk.fleet.preview import Node
from cmk.model.config import ClusterConfig, ConfigError, Host, Selection
from tests.unit.fleet.fleets import config, node, section


@pytest.mark.parametrize(
    ("status", "state", "text"),
    [
        ({}, "applied", ""),
        ({"configHash": "h1"}, "waiting", "its agent still reports h1"),
        ({"configHash": ""}, "waiting", "its agent still reports no configuration"),
        ({"agentVersion": "0"}, "waiting", "its agent is still 0, not 1"),
        ({"configHash": "h1", "pending": {"hash": "h2", "reason": "ConfigRefused", "text": "why"}}, "refused", "why"),
        ({"configHash": "h1", "pending": {"hash": "h0", "reason": "ConfigRefused", "text": "old"}}, "waiting", "old"),
        ({"configHash": "h1", "pending": {"hash": "h2", "reason": "LayoutImpossible", "text": "few"}}, "impossible", "few"),
        ({"configHash": "h1", "pending": {"hash": "h2", "reason": "Paused", "text": "p"}}, "paused", "p"),
        ({"configHash": "h1", "pending": {"hash": "h2", "reason": "Waiting", "text": "turn"}}, "waiting", "turn"),
        (
            {"configHash": "", "conditions": [{"type": "Ready", "reason": "LayoutImpossible", "message": "4 cores"}]},
            "impossible",
            "4 cores",
        ),
        (
            {
                "configHash": "",
                "conditions": [{"type": "Ready", "status": "False", "reason": "OldCmk", "message": "an old CMK runs"}],
            },
            "waiting",
            "an old CMK runs",
        ),
    ],
)
def test_how_a_node_is_doing(status: dict[str, Any], state: str, text: str) -> None:
    found = rollout.row(config(2), {}, node("a", **status), "1")
    assert (found.state, found.text) == (state, text)


def test_a_node_without_report_is_waited_for_unless_it_is_not_ready() -> None:
    silent = Node("a", {})
    assert rollout.row(config(2), {}, silent, "1").state == "waiting"
    assert rollout.row(config(2), {}, msgspec.structs.replace(silent, ready=False), "1").state == "not ready"


def test_a_node_that_is_not_ready_may_have_it_all_the_same() -> None:
    assert rollout.row(config(2), {}, msgspec.structs.replace(node("a"), ready=False), "1").state == "applied"


def test_a_host_of_no_group_is_no_configuration() -> None:
    host = Host({"big": section(1)}, group="none")
    assert rollout.row(ClusterConfig(Selection(all=True), section(2)), {"a": host}, node("a"), "1").state == "impossible"


@pytest.mark.parametrize(("text", "nodes", "number"), [("0", 10, 0), ("3", 10, 3), ("25%", 10, 2), ("100%", 3, 3), ("5%", 10, 0)])
def test_failures_allowed(text: str, nodes: int, number: int) -> None:
    assert rollout.allowed(text, nodes) == number


@pytest.mark.parametrize("text", ["", "-1", "x", "101%", "5 %"])
def test_what_is_no_number_of_failures(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a number of nodes nor a percentage"):
        rollout.allowed(text, 1)
