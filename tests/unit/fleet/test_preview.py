from __future__ import annotations

import json

import msgspec
import pytest

from cmk.fleet import preview
from cmk.fleet.preview import Node, Outcome, PoolChange, TaskMove
from cmk.model import layout, report_state
from cmk.model.config import ClusterConfig, Group, Host, Selection
from cmk.model.node_state import NodeState
from tests.unit.fleet.fleets import POD, TASK, TOPOLOGY, config, node, report_of, section


def only(wanted: ClusterConfig, one: Node) -> preview.NodePlan:
    (found,) = preview.plan(wanted, {}, [one]).nodes
    return found


def test_a_node_that_has_it_already() -> None:
    found = preview.plan(config(2), {}, [node("a", tasks=(TASK,))])
    assert (found.nodes[0].outcome, found.nodes[0].stays, found.changes, found.blocking) == (Outcome.SAME, 1, False, [])


def test_a_growth_shows_the_pools_that_change_and_who_stays() -> None:
    found = only(config(3), node("a", tasks=(TASK,), pods=(POD,)))
    assert (found.outcome, found.stays, found.moves, found.scope, found.hash) == (Outcome.CHANGES, 1, [], "default", "h3")
    assert found.pools["exclusive"] == PoolChange(["0,4", "1,5"], ["0,4", "1,5", "2,6"])


def test_a_shrink_shows_who_moves() -> None:
    found = only(config(1), node("a", tasks=(TASK,), pods=(POD,)))
    assert (found.outcome, found.stays) == (Outcome.CHANGES, 0)
    assert found.moves == [TaskMove(17, "exclusive", "1,5", "0,4", "ns/web", "c" * 12)]


def test_a_shrink_below_what_a_pod_requests_is_refused_by_its_name() -> None:
    found = preview.plan(config(0), {}, [node("a", pods=(POD,))])
    assert [item.outcome for item in found.blocking] == [Outcome.REFUSED]
    assert found.nodes[0].text == "pool exclusive would have 0 cores, but 1 are held or requested: ns/web 1"


def test_a_paused_node_stands_in_nobodys_way() -> None:
    found = preview.plan(config(0, paused=True), {}, [node("a", pods=(POD,)), node("b")])
    assert [item.outcome for item in found.nodes] == [Outcome.PAUSED, Outcome.PAUSED]
    assert (found.blocking, found.changes) == ([], False)


def test_what_the_machine_cannot_do_is_refused_where_there_is_something_to_lose() -> None:
    bare = Node("b", {}, report_of(NodeState(TOPOLOGY)))
    found = preview.plan(config(9), {}, [node("a"), bare])
    assert [item.outcome for item in found.nodes] == [Outcome.REFUSED, Outcome.IMPOSSIBLE]
    assert all("set hosts." in item.text for item in found.nodes)


def test_a_node_that_served_nobody_gets_all_its_pools() -> None:
    bare = Node("b", {}, report_of(NodeState(TOPOLOGY)))
    assert only(config(1), bare).pools["exclusive"] == PoolChange(None, ["0,4"])


def test_nodes_without_a_report_or_with_an_old_one_or_a_broken_one_pass() -> None:
    nodes = [Node("a", {}), Node("b", {}, {"status": {"configHash": "x"}}), Node("c", {}, {"status": {"state": {"topology": 1}}})]
    found = preview.plan(config(1), {}, nodes)
    assert [item.outcome for item in found.nodes] == [Outcome.NEW, Outcome.UNKNOWN, Outcome.UNKNOWN]
    assert (found.blocking, found.changes) == ([], True)


def test_a_node_that_is_not_selected_leaves_if_it_was() -> None:
    wanted = ClusterConfig(Selection(names=("a",)), section(1))
    found = preview.plan(wanted, {}, [node("b"), Node("c", {})])
    assert [(item.node, item.outcome) for item in found.nodes] == [("b", Outcome.LEAVES)]


def test_labels_are_those_of_the_node_now() -> None:
    wanted = msgspec.structs.replace(config(1), groups={"big": Group(section(3), {"size": "big"})})
    labelled = msgspec.structs.replace(node("a"), labels={"size": "big"})
    assert (only(wanted, labelled).scope, only(wanted, node("a")).scope) == ("groups.big", "default")


def test_hosts_that_match_nothing_and_nodes_that_lose_their_section_are_named() -> None:
    found = preview.plan(config(2), {"ghost": Host({"": section(1)}, scope="hosts.ghost")}, [node("a", scope="hosts.a")])
    assert found.notes == [
        "hosts.ghost matches no node",
        "a has no section of its own any more: instead of hosts.a it gets default",
    ]


@pytest.mark.parametrize("hash_", ["h2", "other"])
def test_a_drift_of_the_machine_is_no_change_of_pools(hash_: str) -> None:
    """The agent makes a new layout when the pools asked for differ, and not before."""
    one = node("a")
    state = report_state.load(one.report or {})
    assert state is not None
    smaller = msgspec.structs.replace(TOPOLOGY, cores=TOPOLOGY.cores[1:])
    drifted = report_of(msgspec.structs.replace(state, topology=smaller))
    assert only(config(2, hash_=hash_), msgspec.structs.replace(one, report=drifted)).outcome is Outcome.SAME


def test_a_reduced_report_says_so_where_a_plan_would_be() -> None:
    reduced = {"type": "Reduced", "status": "True", "message": "without tasks, for the API server refused more: 413"}
    found = preview.plan(config(1), {}, [Node("a", {}, {"status": {"configHash": "x", "conditions": [reduced]}})])
    assert (found.nodes[0].outcome, found.blocking) == (Outcome.UNKNOWN, [])
    assert found.nodes[0].text.startswith("its report is reduced: without tasks, for the API server refused more: 413;")


def test_tasks_that_a_report_only_counts_are_noted() -> None:
    counting = node("a", tasks=(TASK,))
    assert counting.report is not None
    counting.report["spec"]["report"]["description"]["pools"]["infra"]["cpuLists"]["2,3,6,7"]["tasksNotListed"] = 4800
    found = preview.plan(config(3), {}, [counting])
    assert (found.nodes[0].outcome, found.nodes[0].stays) == (Outcome.CHANGES, 1)
    assert found.notes == ["a: 4800 more tasks of pool infra are counted in its report, but not listed"]


def test_labels_that_a_report_does_not_tell_of_leave_the_plan_unknown() -> None:
    wanted = msgspec.structs.replace(config(1), groups={"big": Group(section(3), {"size": "big"})})
    of_report = msgspec.structs.replace(node("a"), labels_known=frozenset({"other"}))
    found = only(wanted, of_report)
    assert found.outcome is Outcome.UNKNOWN
    assert found.text == (
        "its report does not tell whether it has the labels size, by which the configuration chooses: plan for the cluster, or save "
        "nodes as well (kubectl get nodes,cmk-nr -o json)"
    )


@pytest.mark.parametrize("wanted", [config(0), config(1), config(2), config(3)], ids=lambda wanted: wanted.default.hash)
def test_a_report_of_an_older_agent_leads_to_the_same_plan(wanted: ClusterConfig) -> None:
    new = node("a", tasks=(TASK,), pods=(POD,))
    state = NodeState(TOPOLOGY, layout.for_section(section(2), TOPOLOGY, {}, frozenset()), section(2), (TASK,), (POD,))
    full = {"status": {**new.status, "state": json.loads(msgspec.json.encode(state))}}
    assert only(wanted, msgspec.structs.replace(new, report=full)) == only(wanted, new)
