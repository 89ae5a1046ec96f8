"""What a plan elsewhere needs to know of a node; tests/compat/test_state_files.py holds the format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cmk.model import node_state
from cmk.model import plan as planner
from cmk.model.choice import ANY_SOCKET
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.layout import CpuList, Layout, Pool, for_section
from cmk.model.node_state import NodeState, NodeStateError
from cmk.model.onmove import How, OnMove
from cmk.model.pods import Pod as BoundPod
from cmk.model.tasks import Process, Task
from tests.unit.machines import machine

TOPOLOGY = machine(cores=4)


def section(exclusive: int, hash_: str = "old") -> Section:
    return Section({"exclusive": PoolConfig(exclusive, exclusive=True), "infra": PoolConfig("rest")}, hash_)


TASK = Task(Process(7, 1), "exclusive", ("0,4",), "u1", "c")
STATE = NodeState(TOPOLOGY, for_section(section(2), TOPOLOGY, {}, frozenset()), section(2), (TASK,))


def test_a_configuration_with_the_same_pools_moves_nothing() -> None:
    layout, plan = STATE.plan(Chosen(section(2, "new"), "default"))
    assert (layout, plan.keeps, plan.moves) == (STATE.layout, (TASK,), ())


def test_other_pools_are_planned_for_the_node_s_tasks() -> None:
    layout, plan = STATE.plan(Chosen(section(0), "default"))
    assert set(layout.pools) == {"infra"}
    assert [refusal.pool for refusal in plan.refusals] == ["exclusive"]


@pytest.mark.parametrize(("tasks", "lists"), [((), 3), ((structs.replace(TASK, lists=("0,3",)),), 2)])
def test_on_a_machine_that_has_changed_the_same_pools_are_planned_anew_but_owners_stay(
    tasks: tuple[Task, ...], lists: int
) -> None:
    before = for_section(section(-1), machine(cores=3), {}, frozenset())
    layout, plan = NodeState(TOPOLOGY, before, section(-1), tasks, is_outdated=True).plan(Chosen(section(-1, "new"), "default"))
    assert (len(layout.pools["exclusive"].lists), plan.keeps, plan.moves) == (lists, tasks, ())


def test_a_machine_that_has_become_too_small_for_its_pools_refuses_no_upgrade() -> None:
    before = for_section(section(3), TOPOLOGY, {}, frozenset())
    state = NodeState(machine(cores=2), before, section(3), is_outdated=True)
    assert state.plan(Chosen(section(3, "new"), "default")) == (before, planner.Plan(()))


def test_a_node_without_pools_gets_its_first_layout() -> None:
    layout, plan = NodeState(TOPOLOGY).plan(Chosen(section(1), "default"))
    assert len(layout.pools["exclusive"].lists) == 1
    assert (plan.keeps, plan.moves, plan.refusals) == ((), (), ())


@pytest.mark.parametrize("values", [None, {}, {"topology": 1}])
def test_a_state_that_is_not_one_is_refused(values: object) -> None:
    with pytest.raises(NodeStateError):
        node_state.load(values)


GRANT = {"cmk.intel.com/exclusive-cores": 1}
POD = BoundPod("u", "ns", "p", {})
LISTS = Layout({"exclusive": Pool("exclusive", True, (CpuList(frozenset({0}), 0), CpuList(frozenset({1}), 0)))})


@pytest.mark.parametrize(
    ("pod", "relevant"),
    [
        pytest.param(POD, False, id="neither requests nor holds"),
        pytest.param(structs.replace(POD, grants=GRANT), True, id="requests"),
        pytest.param(structs.replace(POD, grants={"cmk.intel.com/exclusive-cores": 3}), False, id="requests more than there is"),
        pytest.param(structs.replace(POD, grants={"cmk.intel.com/other-cores": 1}), False, id="requests what there is not"),
        pytest.param(structs.replace(POD, grants=GRANT, terminal=True), False, id="has ended"),
        pytest.param(structs.replace(POD, uid="u1"), True, id="holds"),
        pytest.param(structs.replace(POD, config_hash="u1"), True, id="holds as a static pod"),
    ],
)
def test_a_pod_is_relevant_while_it_holds_or_requests(pod: BoundPod, relevant: bool) -> None:
    assert node_state.relevant_pods([pod], [TASK], LISTS) == ((pod,) if relevant else ())


def test_of_pods_that_request_no_more_count_than_there_are_lists() -> None:
    pods = [structs.replace(POD, uid=f"u{number}", grants=GRANT) for number in range(9)]
    assert [pod.uid for pod in node_state.relevant_pods(pods, [TASK], LISTS)] == ["u0", "u1"]


KINDS = 18
SHARED = {
    name: Pool(name, False, (CpuList(frozenset({n}), 0), CpuList(frozenset({n + 1}), 1))) for n, name in ((2, "a"), (4, "b"))
}
OLD = Layout({"exclusive": Pool("exclusive", True, (CpuList(frozenset({0}), 0), CpuList(frozenset({1}), 1))), **SHARED})
NEW = [
    Layout({**OLD.pools, "a": Pool("a", False, lists)})
    for lists in (
        (CpuList(frozenset({2}), 0),),
        (CpuList(frozenset({3}), 1),),
        (CpuList(frozenset({6}), 0), CpuList(frozenset({3}), 1)),
        (),
    )
] + [Layout({"exclusive": OLD.pools["exclusive"], "b": OLD.pools["b"]})]
TASKS = st.lists(
    st.builds(
        lambda pool, number, socket, how: (pool, (OLD.pools[pool].lists[number].name,), socket, OnMove(how)),
        st.sampled_from(["a", "b"]),
        st.integers(0, 1),
        st.sampled_from([ANY_SOCKET, 0, 1]),
        st.sampled_from(list(How)),
    ),
    max_size=80,
)


@given(TASKS, st.sampled_from(NEW))
def test_a_plan_of_the_listed_tasks_is_refused_whenever_that_of_all_is(rows: list[tuple[Any, ...]], new: Layout) -> None:
    tasks = [Task(Process(n, 1), pool, lists, socket=socket, on_move=how) for n, (pool, lists, socket, how) in enumerate(rows)]
    listed, not_listed = node_state.listed_tasks(tasks, OLD, KINDS)
    assert len(listed) + sum(not_listed.values()) == len(tasks)
    assert all(sum(task.pool == pool for task in listed) <= KINDS for pool in OLD.pools)
    assert bool(planner.plan(OLD, new, listed).refusals) == bool(planner.plan(OLD, new, tasks).refusals)
