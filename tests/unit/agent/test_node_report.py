from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cmk.agent import node_report
from cmk.agent.change_pools import Pending
from cmk.agent.files import StateFiles
from cmk.agent.node_layout import Impossible, NodeLayout, Wanted
from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.model import node_state
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.ledger import Ledger
from cmk.model.reasons import Obstacle
from cmk.model.topology import Core, Topology
from tests.unit.agent.harness import options_in

LAYERS_OFF = {"Isolated": ("False", "LayersOff"), "Conflict": ("False", "None"), "ConfigRefused": ("False", "None")}


def observed(exclusive: int, hash_: str = "abc") -> Observed:
    pools = {"exclusive": PoolConfig(exclusive, exclusive=True), "infra": PoolConfig("rest")}
    return Observed(chosen=Chosen(Section(pools, hash_), "hosts.n"))


@pytest.fixture
def layout(tmp_path: Path) -> NodeLayout:
    topology = Topology(tuple(Core(number, 0, frozenset({number})) for number in range(4)))
    layout = NodeLayout("n", StateFiles(options_in(tmp_path), Procfs()), topology)
    first = layout.wanted(observed(2))
    assert isinstance(first, Wanted)
    layout.keep(first.saved)
    return layout


def conditions(body: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in body["status"]["conditions"]}


def served(
    layout: NodeLayout, now: Observed, pending: Pending | None = None, stored: dict[str, Any] | None = None
) -> dict[str, Any]:
    assert layout.saved is not None
    ledger = Ledger(layout.saved.layout)
    options = Options("n", "ns", "config", "hosts", *[Path("/nowhere")] * 4)
    layers = Layers(options.host_paths, Procfs(), ledger, layout.topology, lambda: None)
    content = node_report.served(layout, layout.saved, ledger, layers, pending, now, "/state")
    return node_report.body(layout, content, stored)


def test_a_node_that_serves(layout: NodeLayout) -> None:
    body = served(layout, observed(2))
    assert conditions(body) == {"Ready": ("True", "Serving"), "ConfigApplied": ("True", "Applied"), **LAYERS_OFF}
    assert (body["status"]["configHash"], body["status"]["scope"]) == ("abc", "hosts.n")
    assert body["status"]["pools"]["exclusive"] == {"lists": 2, "free": 2, "tasks": 0}


def test_other_pools_are_on_their_way(layout: NodeLayout) -> None:
    body = served(layout, observed(1, "def"))
    assert conditions(body) == {"Ready": ("True", "Serving"), "ConfigApplied": ("False", "Changing"), **LAYERS_OFF}
    assert (body["status"]["configHash"], body["status"]["pending"]) == ("abc", {})


@pytest.mark.parametrize(
    ("reason", "refused"), [(Obstacle.CONFIG_REFUSED, "True"), (Obstacle.PAUSED, "False"), (Obstacle.LAYOUT_IMPOSSIBLE, "False")]
)
def test_why_a_configuration_is_not_applied(layout: NodeLayout, reason: Obstacle, refused: str) -> None:
    body = served(layout, observed(1, "def"), Pending(reason, "because", "def"))
    found = conditions(body)
    assert (found["ConfigApplied"], found["ConfigRefused"][0]) == (("False", reason), refused)
    assert body["status"]["pending"] == {"reason": reason, "text": "because", "hash": "def"}


def test_what_a_plan_elsewhere_needs_is_in_it(layout: NodeLayout) -> None:
    body = served(layout, observed(2))
    found = node_state.load(json.loads(json.dumps(body["status"]["state"])))
    assert layout.saved is not None
    assert (found.topology, found.layout, found.section) == (layout.topology, layout.saved.layout, layout.saved.section)


def test_an_unreadable_configuration_leaves_the_node_serving(layout: NodeLayout) -> None:
    assert conditions(served(layout, Observed(error="nonsense"))) == {
        "Ready": ("True", "Serving"),
        "ConfigApplied": ("False", "ConfigInvalid"),
        **LAYERS_OFF,
    }


def test_a_node_that_serves_nobody_says_why(layout: NodeLayout) -> None:
    content = node_report.refused(layout, Impossible(Obstacle.LAYOUT_IMPOSSIBLE, "too few cores"), observed(9), "/state")
    body = node_report.body(layout, content, None)
    assert conditions(body) == {"Ready": ("False", "LayoutImpossible")}
    assert body["spec"]["report"]["checks"]["configDirectory"] == {"errors": ["too few cores"], "ok": False}
    assert "configHash" not in body["status"]


def test_a_condition_that_stays_keeps_its_time(layout: NodeLayout) -> None:
    body = served(layout, observed(2))
    for item in body["status"]["conditions"]:
        item["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    again = served(layout, observed(2), stored=body)
    assert {item["lastTransitionTime"] for item in again["status"]["conditions"]} == {"2020-01-01T00:00:00Z"}
