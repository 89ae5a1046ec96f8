from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cmk.agent import node_report
from cmk.agent.files import StateFiles
from cmk.agent.node_layout import NodeLayout
from cmk.agent.options import Options
from cmk.agent.watches import Seen
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.model import node_state
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.ledger import Ledger
from cmk.model.reasons import Obstacle
from cmk.model.topology import Core, Topology
from tests.unit.agent.harness import options_in

LAYERS_OFF = {"Isolated": ("False", "LayersOff"), "Conflict": ("False", "None"), "ConfigRefused": ("False", "None")}


def seen(exclusive: int, hash_: str = "abc") -> Seen:
    pools = {"exclusive": PoolConfig(exclusive, exclusive=True), "infra": PoolConfig("rest")}
    return Seen(Chosen(Section(pools, hash_), "hosts.n"))


@pytest.fixture
def layout(tmp_path: Path) -> NodeLayout:
    return NodeLayout(
        "n",
        StateFiles(options_in(tmp_path), Procfs()),
        Topology(tuple(Core(number, 0, frozenset({number})) for number in range(4))),
        lambda *_: None,
    )


def conditions(body: dict[str, Any] | None) -> dict[str, tuple[str, str]]:
    assert body is not None
    return {item["type"]: (item["status"], item["reason"]) for item in body["status"]["conditions"]}


def served(layout: NodeLayout, now: Seen, current: dict[str, Any] | None = None) -> dict[str, Any] | None:
    made = layout.make(seen(2))
    assert made is not None
    ledger = Ledger(made.layout)
    options = Options("n", "ns", "config", "hosts", *[Path("/nowhere")] * 4)
    layers = Layers(options.host_paths, Procfs(), ledger, layout.topology, lambda: None)
    return node_report.body(layout, ledger, layers, now, current, "/state")


def test_nothing_is_said_before_anything_is_known(layout: NodeLayout) -> None:
    assert node_report.body(layout, None, None, Seen(), None, "/state") is None


def test_a_node_that_serves(layout: NodeLayout) -> None:
    body = served(layout, seen(2))
    assert conditions(body) == {"Ready": ("True", "Serving"), "ConfigApplied": ("True", "Applied"), **LAYERS_OFF}
    assert body is not None
    assert (body["status"]["configHash"], body["status"]["scope"]) == ("abc", "hosts.n")
    assert body["status"]["pools"]["exclusive"] == {"lists": 2, "free": 2, "tasks": 0}


def test_other_pools_are_on_their_way(layout: NodeLayout) -> None:
    body = served(layout, seen(1, "def"))
    assert conditions(body) == {"Ready": ("True", "Serving"), "ConfigApplied": ("False", "Changing"), **LAYERS_OFF}
    assert body is not None
    assert (body["status"]["configHash"], body["status"]["pending"]) == ("abc", {})


@pytest.mark.parametrize(
    ("reason", "refused"), [(Obstacle.CONFIG_REFUSED, "True"), (Obstacle.PAUSED, "False"), (Obstacle.LAYOUT_IMPOSSIBLE, "False")]
)
def test_why_a_configuration_is_not_applied(layout: NodeLayout, reason: Obstacle, refused: str) -> None:
    made = layout.make(seen(2))
    assert made is not None
    layout.pend(reason, "because", Section({}, "def"))
    ledger = Ledger(made.layout)
    options = Options("n", "ns", "config", "hosts", *[Path("/nowhere")] * 4)
    layers = Layers(options.host_paths, Procfs(), ledger, layout.topology, lambda: None)
    body = node_report.body(layout, ledger, layers, seen(1, "def"), None, "/state")
    found = conditions(body)
    assert (found["ConfigApplied"], found["ConfigRefused"][0]) == (("False", reason), refused)
    assert body is not None
    assert body["status"]["pending"] == {"reason": reason, "text": "because", "hash": "def"}


def test_what_a_plan_elsewhere_needs_is_in_it(layout: NodeLayout) -> None:
    body = served(layout, seen(2))
    assert body is not None
    found = node_state.load(json.loads(json.dumps(body["status"]["state"])))
    assert layout.saved is not None
    assert (found.topology, found.layout, found.section) == (layout.topology, layout.saved.layout, layout.saved.section)


def test_an_unreadable_configuration_leaves_the_node_serving(layout: NodeLayout) -> None:
    assert conditions(served(layout, Seen(error="nonsense"))) == {
        "Ready": ("True", "Serving"),
        "ConfigApplied": ("False", Obstacle.CONFIG_INVALID),
        **LAYERS_OFF,
    }


def test_an_impossible_layout_is_told(layout: NodeLayout) -> None:
    layout.make(seen(9))
    body = node_report.body(layout, None, None, seen(9), None, "/state")
    assert conditions(body) == {"Ready": ("False", Obstacle.LAYOUT_IMPOSSIBLE)}
    assert body is not None
    assert not body["spec"]["report"]["checks"]["configDirectory"]["ok"]


def test_a_condition_that_stays_keeps_its_time(layout: NodeLayout) -> None:
    body = served(layout, seen(2))
    assert body is not None
    for item in body["status"]["conditions"]:
        item["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    again = served(layout, seen(2), body)
    assert again is not None
    assert {item["lastTransitionTime"] for item in again["status"]["conditions"]} == {"2020-01-01T00:00:00Z"}
