"""Numbers of lists that a node advertises, and those that its pods hold or request."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from cmk.model.advertise import advertise, demand, offered, requested
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task

NAME, GONE = "cmk.intel.com/exclusive-cores", "cmk.intel.com/old-cores"
WEB = Pod("u1", "ns", "web", {NAME: 2})
STATIC = Pod("u3", "kube-system", "static-node1", {NAME: 1}, config_hash="f" * 32)


def exclusive(*lists: tuple[int, ...], name: str = "exclusive") -> Pool:
    return Pool(name, True, tuple(CpuList(frozenset(cpus), 0) for cpus in lists))


def layout(*pools: Pool) -> Layout:
    return Layout({pool.name: pool for pool in (*pools, Pool("infra", False, (CpuList(frozenset({0}), 0),)))})


def task(pid: int, *lists: str, pod: str = "u1", pool: str = "exclusive") -> Task:
    return Task(Process(pid, 1), pool, lists, pod, "c" * 64)


OLD = layout(exclusive((1, 5), (2, 6), (3, 7)))


@pytest.mark.parametrize(
    ("tasks", "pods", "expected"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([], [WEB], {"u1": 2}, id="a pod that has taken nothing yet"),
        pytest.param([task(7, "1,5")], [WEB], {"u1": 2}, id="a pod that has taken less than it requests"),
        pytest.param([task(7, "1,5"), task(8, "2,6", "3,7")], [WEB], {"u1": 3}, id="a pod that holds more than it requests"),
        pytest.param([task(7, "1,5", pod="gone")], [], {"gone": 1}, id="a task of a pod that is not bound"),
        pytest.param([task(7, "1,5", pod=""), task(8, "2,6", pod="")], [], {"": 2}, id="tasks outside pods"),
        pytest.param([task(7, "0", pool="infra")], [], {}, id="tasks of other pools"),
        pytest.param([], [replace(WEB, grants={NAME: 4})], {}, id="a pod that requests more than there is"),
        pytest.param([task(7, "1,5")], [replace(WEB, grants={NAME: 4})], {"u1": 1}, id="such a pod that holds something"),
        pytest.param([task(7, "1,5", pod="f" * 32)], [STATIC], {"u3": 1}, id="a static pod, whose cgroup has another name"),
    ],
)
def test_the_demand_of_a_pod_is_what_it_holds_or_requests(tasks: list[Task], pods: list[Pod], expected: dict[str, int]) -> None:
    assert demand("exclusive", tasks, pods, most=3) == expected


def test_pods_that_have_ended_request_nothing() -> None:
    ended = replace(WEB, uid="u2", terminal=True)
    assert requested([WEB, ended, STATIC], NAME, most=3) == 3


def test_pods_that_request_more_than_there_is_request_nothing() -> None:
    assert requested([WEB, STATIC], NAME, most=1) == 1


@pytest.mark.parametrize(
    ("new", "tasks", "pods", "expected"),
    [
        (layout(exclusive((1, 5))), [], [], {"exclusive": 1}),
        (layout(exclusive((1, 5))), [], [WEB], {"exclusive": 2}),
        (layout(exclusive((1, 5))), [task(7, "1,5", pod=""), task(8, "2,6", pod="")], [], {"exclusive": 2}),
        (
            layout(exclusive((1, 5))),
            [],
            [replace(WEB, grants={"cmk.intel.com/exclusive-cores": 9})],
            {"exclusive": 1},
        ),
        (layout(exclusive((1,), (2,), (3,), (4,))), [], [], {"exclusive": 3}),
        (layout(), [], [], {}),
        (layout(), [task(7, "1,5", pod="")], [], {"exclusive": 1}),
        (layout(exclusive((1, 5), name="gold"), exclusive()), [], [], {"exclusive": 0}),
    ],
)
def test_what_is_advertised_while_a_change_waits(
    new: Layout, tasks: list[Task], pods: list[Pod], expected: dict[str, int]
) -> None:
    assert offered(OLD, new, tasks, pods) == {f"cmk.intel.com/{pool}-cores": count for pool, count in expected.items()}


@pytest.mark.parametrize(
    ("lists", "current", "requests", "expected"),
    [
        ({NAME: 4}, {}, [], {NAME: 4}),
        ({NAME: 4}, {NAME: 9}, [], {NAME: 4}),
        ({NAME: 4}, {NAME: 9}, [{NAME: 4}, {NAME: 2}], {NAME: 6}),
        ({NAME: 4}, {NAME: 9}, [{NAME: 9}, {NAME: 9}], {NAME: 9}),
        ({NAME: 4}, {NAME: 9}, [{NAME: 10}, {NAME: 65537}], {NAME: 4}),
        ({NAME: 4}, {NAME: 4}, [{NAME: 100}], {NAME: 4}),
        ({NAME: 4}, {NAME: 9}, None, {NAME: 9}),
        ({}, {GONE: 2}, [], {}),
        ({}, {GONE: 2}, [{GONE: 1}], {GONE: 1}),
        ({}, {GONE: 2}, [{GONE: 3}], {}),
    ],
)
def test_never_below_what_bound_pods_request(
    lists: dict[str, int], current: dict[str, int], requests: list[dict[str, int]] | None, expected: dict[str, int]
) -> None:
    pods = None if requests is None else [replace(WEB, uid=f"u{number}", grants=grants) for number, grants in enumerate(requests)]
    assert advertise(lists, current, pods) == expected
