"""Looks at all nodes by tables, whose columns are those of the chart's definition of NodeReports."""

from __future__ import annotations

from typing import Any

import pytest

from cmk.fleet.looks import Looks
from cmk.kube import reports
from cmk.kube.client import METADATA, TABLE
from cmk.model.reasons import Obstacle
from tests.unit.fleet.fleets import node, report_table, table
from tests.unit.kube.apiserver import serving

NODES = "/api/v1/nodes"
REFUSED = {"pending": {"hash": "h2", "reason": Obstacle.CONFIG_REFUSED.value}}


def of_reports(found: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The answer to who asks for the table of reports, by the names of nodes."""
    return 200, report_table(found)


def of_nodes(**states: str) -> tuple[int, dict[str, Any]]:
    return 200, table(["Name", "Status", "Roles"], [[name, state, "<none>"] for name, state in states.items()])


def metadata(*names: str) -> tuple[int, dict[str, Any]]:
    return 200, {"items": [{"metadata": {"name": name, "labels": {"of": name}}} for name in names]}


CONDITIONS = [
    {"type": "Ready", "status": "True", "reason": "Serving", "message": "serves"},
    {"type": "Isolated", "status": "True", "message": "not asked for"},
    {"type": "ConfigApplied", "status": "False", "message": "refused: see ..."},
    {"type": "ConfigRefused", "status": "True", "message": "a pod is in the way"},
]


@pytest.mark.parametrize("more", [{}, {"conditions": CONDITIONS}, REFUSED | {"conditions": CONDITIONS}])
def test_a_look_has_of_a_report_what_tells_the_progress(more: dict[str, Any]) -> None:
    report = node("one", **more).report
    assert report
    with serving(of_reports({"one": report}), of_nodes(one="Ready"), metadata("one")) as server:
        (found,) = Looks(server.api)(False)
    asked = [{key: item[key] for key in item if item["type"] == "Ready" or key in ("type", "message")} for item in CONDITIONS]
    expected = [item for item in asked if item["type"] != "Isolated"] if more else []
    pending = {key: more[key] for key in more if key == "pending"}
    conditions = {"conditions": expected} if expected else {}
    assert found.status == {"agentVersion": "1", "configHash": "h2", **conditions, **pending}
    assert (found.name, found.labels, found.ready) == ("one", {"of": "one"}, True)


def test_labels_are_read_once_and_of_nodes_that_come_later() -> None:
    with serving(
        of_reports({}),
        of_nodes(one="Ready", two="Ready,SchedulingDisabled"),
        metadata("one", "two"),
        of_reports({}),
        of_nodes(one="NotReady", two="Ready", three="Ready", gone="Ready"),
        metadata("three"),
        metadata(),
    ) as server:
        look = Looks(server.api)
        assert [(item.name, item.ready, item.report) for item in look(False)] == [("one", True, None), ("two", False, None)]
        later = list(look(True))
    assert [(item.name, item.ready, item.labels["of"]) for item in later] == [
        ("one", False, "one"),
        ("two", True, "two"),
        ("three", True, "three"),
    ]
    lately = {"includeObject": "None", "resourceVersion": "0"}
    assert [(path, query) for _, path, query, *_ in server.seen] == [
        (reports.PATH, lately),
        (NODES, lately),
        (NODES, {"limit": "500"}),
        (reports.PATH, {"includeObject": "None"}),
        (NODES, {"includeObject": "None"}),
        (NODES, {"limit": "500", "fieldSelector": "metadata.name=three"}),
        (NODES, {"limit": "500", "fieldSelector": "metadata.name=gone"}),
    ]
    assert server.accepted == [TABLE, TABLE, METADATA, TABLE, TABLE, METADATA, METADATA]


def test_without_our_definitions_there_are_no_reports() -> None:
    with serving((404, {"message": "no such resource"}), of_nodes(one="Ready"), metadata("one")) as server:
        assert [item.report for item in Looks(server.api)(False)] == [None]


def test_with_a_definition_from_before_whole_reports_are_read() -> None:
    whole = {"metadata": {"name": "one"}, "status": {"configHash": "h1"}}
    item = {"metadata": {"name": "one"}, "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    with serving(
        (200, table(["Name", "Config"], [["one", "h1"]])), *[(200, {"items": [item]}), (200, {"items": [whole]})] * 2
    ) as server:
        look = Looks(server.api)
        assert [[found.report for found in look(False)] for _ in range(2)] == [[whole], [whole]]


def test_a_report_that_no_agent_has_filled_says_nothing() -> None:
    with serving(of_reports({"one": {}}), of_nodes(one="Ready"), metadata("one")) as server:
        assert [item.status for item in Looks(server.api)(False)] == [{}]


def test_labels_of_many_new_nodes_are_read_together() -> None:
    names = [f"n{number}" for number in range(11)]
    answers = [of_reports({}), of_nodes(one="Ready"), metadata("one"), of_reports({}), of_nodes(**dict.fromkeys(names, "Ready"))]
    with serving(*answers, metadata("one", *names)) as server:
        look = Looks(server.api)
        assert [item.name for item in look(False)] == ["one"]
        assert [item.name for item in look(False)] == names
        assert not server.answers
