from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmk.agent import node_report
from cmk.agent.change_pools import Pending
from cmk.agent.files import StateFiles
from cmk.agent.node_layout import Impossible, NodeLayout, Wanted
from cmk.agent.node_report import MOST_TASKS, NOT_REFUSED
from cmk.agent.observed import Observed, with_configuration
from cmk.agent.options import Options
from cmk.agent.stalls import Stalls
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.kube import reports
from cmk.model import report_state
from cmk.model.config import BUILT_IN_LABELS, HOSTNAME_LABEL, Chosen, ClusterConfig, Group, PoolConfig, Section, Selection
from cmk.model.ledger import Ledger
from cmk.model.node_state import NodeState
from cmk.model.onmove import How, OnMove
from cmk.model.pods import Pod
from cmk.model.reasons import Obstacle
from cmk.model.report import Reduction, Refusal
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology
from tests.unit.agent.full_nodes import bytes_of
from tests.unit.agent.harness import options_in

WHOLE = {"Reduced": ("False", "None")}
LAYERS_OFF = {"Isolated": ("False", "LayersOff"), "Conflict": ("False", "None"), "ConfigRefused": ("False", "None"), **WHOLE}


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
    layout: NodeLayout,
    now: Observed,
    pending: Pending | None = None,
    stored: dict[str, Any] | None = None,
    tasks: Iterable[Task] = (),
    refusal: Refusal = NOT_REFUSED,
) -> dict[str, Any]:
    assert layout.saved is not None
    ledger = Ledger(layout.saved.layout, tasks)
    options = Options("n", "ns", "config", "hosts", *[Path("/nowhere")] * 4)
    layers = Layers(options.host_paths, Procfs(), ledger, layout.topology, lambda: None)
    content = node_report.served(layout, layout.saved, ledger, layers, pending, now, "/state", refusal)
    return node_report.body(layout, content, stored, Stalls(), refusal)


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
    ("reason", "refused", "where"),
    [
        (Obstacle.CONFIG_REFUSED, "True", "ConfigRefused"),
        (Obstacle.PAUSED, "False", "ConfigApplied"),
        (Obstacle.LAYOUT_IMPOSSIBLE, "False", "ConfigApplied"),
    ],
)
def test_why_a_configuration_is_not_applied_is_said_once(layout: NodeLayout, reason: Obstacle, refused: str, where: str) -> None:
    body = served(layout, observed(1, "def"), Pending(reason, "because", "def"))
    found = conditions(body)
    assert (found["ConfigApplied"], found["ConfigRefused"][0]) == (("False", reason), refused)
    assert body["status"]["pending"] == {"reason": reason, "hash": "def"}
    assert [item["type"] for item in body["status"]["conditions"] if item["message"] == "because"] == [where]


def test_what_a_plan_elsewhere_needs_is_in_it(layout: NodeLayout) -> None:
    body = served(layout, observed(2))
    found = state_of(body)
    assert layout.saved is not None
    assert (found.topology, found.layout) == (layout.topology, layout.saved.layout)
    assert found.section is not None
    assert found.section.same_pools(layout.saved.section)


def test_a_report_that_the_api_server_has_is_not_written_again(layout: NodeLayout) -> None:
    body = served(layout, observed(2), tasks=[OWNER])
    assert reports.is_current(body, json.loads(json.dumps(body)))


def test_labels_by_which_a_configuration_chooses_are_in_it(layout: NodeLayout) -> None:
    node = {"metadata": {"labels": {"size": "big", "unused": "x", HOSTNAME_LABEL: "n"}}}
    wanted = ClusterConfig(Selection({"cmk": "yes"}), Section({}, "h"), {"big": Group(Section({}, "h"), {"size": "big"})})
    now = with_configuration(msgspec.structs.replace(observed(2), node=node), "n", msgspec.json.encode(wanted).decode(), None)
    body = served(layout, now)
    labels, known = report_state.labels_of(body)
    assert labels == {"size": "big", HOSTNAME_LABEL: "n"}
    assert known == {"cmk", "size", *BUILT_IN_LABELS}


def test_an_unreadable_configuration_leaves_the_node_serving(layout: NodeLayout) -> None:
    assert conditions(served(layout, Observed(error="nonsense"))) == {
        "Ready": ("True", "Serving"),
        "ConfigApplied": ("False", "ConfigInvalid"),
        **LAYERS_OFF,
    }


def test_a_node_that_serves_nobody_says_why(layout: NodeLayout) -> None:
    content = node_report.refused(layout, Impossible(Obstacle.LAYOUT_IMPOSSIBLE, "too few cores"), observed(9), "/state")
    body = node_report.body(layout, content, None, Stalls())
    assert conditions(body) == {"Ready": ("False", "LayoutImpossible"), **WHOLE}
    assert body["spec"]["report"]["checks"]["configDirectory"] == {"errors": ["too few cores"], "ok": False}
    assert "configHash" not in body["status"]


def test_a_condition_that_stays_keeps_its_time(layout: NodeLayout) -> None:
    body = served(layout, observed(2))
    for item in body["status"]["conditions"]:
        item["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    again = served(layout, observed(2), stored=body)
    assert {item["lastTransitionTime"] for item in again["status"]["conditions"]} == {"2020-01-01T00:00:00Z"}


def many(count: int, **more: Any) -> list[Task]:  # noqa: ANN401
    uid, container = "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "ab" * 32
    return [Task(Process(1_000_000 + n, 77_700_000 + n), "infra", ("2,3",), uid, container, **more) for n in range(count)]


OWNER = Task(Process(7, 1), "exclusive", ("0",))
WORST = Pod("u" * 36, "n" * 63, "p" * 253, {"cmk.intel.com/exclusive-cores": 1}, on_move="x" * 250_000)


def state_of(body: dict[str, Any]) -> NodeState:
    """The state as a reader finds it: the API server sorts keys."""
    found = report_state.load(json.loads(json.dumps(body, sort_keys=True)))
    assert found is not None
    return found


def test_tasks_of_shared_pools_beyond_some_hundred_are_counted(layout: NodeLayout) -> None:
    body = served(layout, observed(2), tasks=[OWNER, *many(5000)])
    description = body["spec"]["report"]["description"]["pools"]
    assert description["exclusive"]["cpuLists"]["0"]["tasks"] == [7]
    (infra,) = description["infra"]["cpuLists"].values()
    assert (len(infra["tasks"]), infra["tasksNotListed"]) == (MOST_TASKS, 5000 - MOST_TASKS)
    assert body["status"]["pools"]["infra"]["tasks"] == 5000
    assert state_of(body).not_listed == {"infra": 5000 - MOST_TASKS}
    (reduced,) = (item for item in body["status"]["conditions"] if item["type"] == "Reduced")
    assert (reduced["status"], reduced["reason"]) == ("True", "ManyTasks")
    assert reduced["message"] == f"counted, but not listed: {5000 - MOST_TASKS} tasks of pool infra"


def test_a_report_has_a_bounded_size(layout: NodeLayout) -> None:
    pods = {str(n): msgspec.structs.replace(WORST, uid=f"{n:036}") for n in range(500)}
    now = msgspec.structs.replace(observed(2), pods=pods)
    pending = Pending(Obstacle.CONFIG_REFUSED, "x" * 10**6, "def")
    body = served(layout, now, pending, tasks=[OWNER, *many(50_000)])
    assert bytes_of(body) < 20_000


@pytest.mark.parametrize("reduction", list(Reduction)[1:])
def test_a_refused_report_says_what_it_leaves_out(layout: NodeLayout, reduction: Reduction) -> None:
    refusal = Refusal(reduction, "413 limit is 3145728")
    body = served(layout, observed(2), tasks=[OWNER, *many(3)], refusal=refusal)
    (reduced,) = (item for item in body["status"]["conditions"] if item["type"] == "Reduced")
    assert (reduced["status"], reduced["reason"]) == ("True", "ReportRefused")
    assert reduced["message"].endswith("for the API server refused more: 413 limit is 3145728")
    assert body["status"]["pools"] == {
        "exclusive": {"lists": 2, "free": 1, "tasks": 1},
        "infra": {"lists": 1, "free": 0, "tasks": 3},
    }
    assert (body["status"]["configHash"], conditions(body)["Ready"]) == ("abc", ("True", "Serving"))
    state = report_state.load(body)
    assert [task.process.pid for task in (state.tasks if state else ())] == ([7] if reduction is Reduction.SHARED_TASKS else [])
    assert ("state" in body["status"], "description" in body["spec"]["report"]) == (reduction is Reduction.SHARED_TASKS,) * 2


@pytest.mark.parametrize("one", [{"socket": 0}, {"on_move": OnMove(How.PINNED)}], ids=["socket", "pinned"])
def test_what_a_plan_may_be_refused_for_is_listed_first(layout: NodeLayout, one: dict[str, Any]) -> None:
    *others, last = many(1000)
    body = served(layout, observed(2), tasks=[*others, msgspec.structs.replace(last, **one)])
    listed = state_of(body).tasks
    assert len(listed) == MOST_TASKS
    assert last.process.pid in {task.process.pid for task in listed}


@pytest.mark.parametrize("stored", [None, [], {"status": None}, {"status": []}, {"status": {"conditions": {"a": 1}}}])
def test_a_stored_report_of_any_shape_is_replaced(layout: NodeLayout, stored: Any) -> None:  # noqa: ANN401
    assert conditions(served(layout, observed(2), stored=stored or {}))["Ready"] == ("True", "Serving")


def test_stored_conditions_of_any_shape_are_replaced(layout: NodeLayout) -> None:
    stored = {"status": {"conditions": [None, 3, [], {"type": {}}, {"type": "Ready", "status": "True"}]}}
    assert conditions(served(layout, observed(2), stored=stored))["Ready"] == ("True", "Serving")
