"""tests/compat/test_state_files.py holds the format of older agents, tests/unit/fleet/test_preview.py compares plans of both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from cmk.model import plan as planner
from cmk.model import report, report_state
from cmk.model.config import PoolConfig, Section
from cmk.model.layout import Layout, for_section
from cmk.model.ledger import Ledger
from cmk.model.node_state import NodeState, NodeStateError
from cmk.model.onmove import How, OnMove
from cmk.model.plan import Plan
from cmk.model.pods import Pod
from cmk.model.report_state import LONGEST_NAME
from cmk.model.tasks import Process, Task
from tests.unit.fleet.fleets import report_of
from tests.unit.machines import machine

TOPOLOGY = machine(sockets=2, cores=8)
UID, OTHER, CONTAINER = "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "1c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "ab" * 32


def section(exclusive: int, shared: int) -> Section:
    pools = {"exclusive": PoolConfig(exclusive, exclusive=True), "shared": PoolConfig(shared), "infra": PoolConfig("rest")}
    return Section(pools, "hash", reserved="15,31")


def laid_out(exclusive: int, shared: int) -> Layout:
    return for_section(section(exclusive, shared), TOPOLOGY, {}, frozenset())


LAYOUT = laid_out(9, 3)
LISTS = [item.name for item in LAYOUT.pools["exclusive"].lists]
TASK = Task(Process(70, 1), "exclusive", (LISTS[0],), UID, CONTAINER)
POD = Pod(UID, "ns", "web", {"cmk.intel.com/exclusive-cores": 1})
STATE = NodeState(TOPOLOGY, LAYOUT, section(9, 3), (TASK,), (POD,))


def read(state: NodeState) -> NodeState:
    found = report_state.load(report_of(state))
    assert found is not None
    return found


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"topology": structs.replace(TOPOLOGY, isolated_from=("sysfs",), unbalanced=frozenset({3}))},
        {"outside": frozenset({0, 3, 4})},
        {"topology": structs.replace(TOPOLOGY, cores=TOPOLOGY.cores[1:])},
    ],
    ids=["whole", "isolation of the kernel", "CPUs outside", "a core of a list is offline"],
)
def test_what_a_plan_asks_of_a_node_is_read_as_it_was_written(change: dict[str, Any]) -> None:
    state = structs.replace(STATE, **change)
    found = read(state)
    assert (found.topology, found.outside) == (state.topology, state.outside)
    assert found.layout == structs.replace(LAYOUT, warnings=())
    assert found.section is not None
    assert found.section.same_pools(section(9, 3))


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        structs.replace(TASK, lists=tuple(LISTS[:3]), cores=3),
        structs.replace(TASK, pool="shared", lists=(LAYOUT.pools["shared"].lists[0].name,)),
        structs.replace(TASK, socket=0, on_move=OnMove(How.PINNED)),
        structs.replace(TASK, pod="", container=""),
        structs.replace(TASK, pod=OTHER),
    ],
    ids=["one core", "three cores", "shared", "with a wish", "outside pods", "of a pod that nobody knows"],
)
def test_a_task_is_read_as_it_was_written(task: Task) -> None:
    found = read(structs.replace(STATE, tasks=(task,)))
    (one,) = found.tasks
    uids = {pod.uid: UID for pod in found.pods}
    wanted = structs.replace(task, process=Process(70, 0), container=task.container[:12], cores=1)
    assert structs.replace(one, pod=uids.get(one.pod, one.pod)) == wanted


def test_a_node_without_pools_has_its_topology() -> None:
    assert read(NodeState(TOPOLOGY, outside=frozenset({1}))) == NodeState(TOPOLOGY, outside=frozenset({1}))


def test_of_a_static_pod_task_and_pod_are_one() -> None:
    found = read(structs.replace(STATE, pods=(structs.replace(POD, uid=OTHER, config_hash=UID),)))
    assert (found.tasks[0].pod, str(found.pods[0])) == (found.pods[0].uid, "ns/web")


def test_a_long_name_has_its_beginning_and_its_end() -> None:
    (pod,) = read(structs.replace(STATE, pods=(structs.replace(POD, name="begin" + "x" * 240 + "end"),))).pods
    assert (len(pod.name), pod.name[:5], pod.name[-3:]) == (LONGEST_NAME, "begin", "end")


@pytest.mark.parametrize(("used", "has", "lacks"), [((), {}, ()), (("a", "z"), {"a": "1"}, ("z",))])
def test_only_labels_that_are_used_are_in_it(used: tuple[str, ...], has: dict[str, str], lacks: tuple[str, ...]) -> None:
    state = structs.replace(STATE, labels={"a": "1", "b": "2"})
    values = report_state.dump(state, report.describe(Ledger(LAYOUT, [TASK]), "/"), used)
    assert report_state.labels_of({"status": {"state": values}}) == (has, {*has, *lacks})


def test_a_report_without_a_state_has_none() -> None:
    assert report_state.load({"status": {"configHash": "x"}}) is None


def broken(**state: Any) -> dict[str, Any]:  # noqa: ANN401
    whole = report_of(STATE)
    return {**whole, "status": {**whole["status"], "state": {**whole["status"]["state"], **state}}}


WHOLE = report_of(STATE)
OF_TWO = report_of(structs.replace(STATE, tasks=(TASK, Task(Process(80, 1), "exclusive", (LISTS[1],)))))


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param({"status": {"state": None}}, id="nothing"),
        pytest.param({"status": {"state": []}}, id="a list"),
        pytest.param({"status": {"state": {"topology": 1}}}, id="no topology of an older agent"),
        pytest.param({**WHOLE, "spec": {"report": {}}}, id="a report without its description"),
        pytest.param({**WHOLE, "spec": None}, id="no report"),
        pytest.param({**WHOLE, "spec": OF_TWO["spec"]}, id="a description of other tasks"),
        pytest.param(broken(holders="%"), id="not base64"),
        pytest.param(broken(holders="AAAA"), id="not compressed"),
        pytest.param(broken(holders=WHOLE["status"]["state"]["holders"][:40]), id="cut"),
        pytest.param(broken(outside="x"), id="CPUs that are none"),
        pytest.param(broken(pools={"a": {"future": 1}}), id="a pool of a newer version"),
    ],
)
def test_a_report_that_is_damaged_is_refused(damaged: dict[str, Any]) -> None:
    with pytest.raises(NodeStateError):
        report_state.load(json.loads(json.dumps(damaged)))


def outcome(plan: Plan) -> tuple[Any, ...]:
    moves = [(move.task.process.pid, move.lists, move.old, move.new) for move in plan.moves]
    return {task.process.pid for task in plan.keeps}, moves, [refusal.text for refusal in plan.refusals]


HOLDERS = st.lists(
    st.tuples(st.sampled_from([POD, Pod(OTHER, "ns", "db", {"cmk.intel.com/exclusive-cores": 2})]), st.sampled_from(list(How))),
    max_size=9,
)


@given(HOLDERS, st.integers(0, 11), st.integers(1, 3))
def test_a_plan_from_a_report_is_that_of_the_agent(holders: list[tuple[Pod, How]], exclusive: int, shared: int) -> None:
    tasks = tuple(
        Task(Process(100 - n, n), "exclusive", (LISTS[n],), pod.uid, CONTAINER, on_move=OnMove(how))
        for n, (pod, how) in enumerate(holders)
    )
    pods = tuple({pod.uid: pod for pod, _ in sorted(holders, key=lambda row: row[0].uid)}.values())
    state = structs.replace(STATE, tasks=tasks, pods=pods)
    found, new = read(state), laid_out(exclusive, shared)
    assert found.layout is not None
    assert outcome(planner.plan(found.layout, new, found.tasks, found.pods)) == outcome(planner.plan(LAYOUT, new, tasks, pods))
