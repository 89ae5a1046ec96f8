"""The texts of refusals and the destinations of tasks on small layouts; tests/property/test_plan.py has random ones."""

from __future__ import annotations

import msgspec

from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.onmove import How, OnMove
from cmk.model.plan import describe, plan
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task

WEB, DB = Pod("u1", "ns", "web", {"cmk.intel.com/exclusive-cores": 2}), Pod("u2", "ns", "db", {})
STATIC = Pod("u3", "kube-system", "static-node1", {"cmk.intel.com/exclusive-cores": 1}, config_hash="f" * 32)


def exclusive(*lists: tuple[int, ...], sockets: tuple[int, ...] = (), name: str = "exclusive") -> Pool:
    return Pool(name, True, tuple(CpuList(frozenset(cpus), sockets[index] if sockets else 0) for index, cpus in enumerate(lists)))


def layout(*pools: Pool, infra: tuple[int, ...] = (0,)) -> Layout:
    return Layout({pool.name: pool for pool in (*pools, Pool("infra", False, (CpuList(frozenset(infra), 0),)))})


def task(pid: int, *lists: str, pod: str = "u1", pool: str = "exclusive", **more: object) -> Task:
    return msgspec.structs.replace(Task(Process(pid, 1), pool, lists, pod, "c" * 64), **more)


OLD = layout(exclusive((1, 5), (2, 6), (3, 7)))


def refusals(new: Layout, *tasks: Task, pods: tuple[Pod, ...] = (WEB, DB)) -> list[str]:
    refused = plan(OLD, new, tasks, pods)
    assert (refused.moves, refused.keeps) == ((), ())
    return [refusal.text for refusal in refused.refusals]


def test_the_refusal_to_remove_a_pool_names_pod_container_process_and_cpus() -> None:
    assert refusals(layout(), task(7, "1,5"), pods=()) == [
        f"pool exclusive is removed, but process 7 of pod u1, container {'c' * 12}, runs on its CPUs 1,5"
    ]
    assert refusals(layout(), task(7, "1,5", "2,6"))[0].startswith(
        f"pool exclusive is removed, but process 7 of pod ns/web, container {'c' * 12}, runs on its CPUs 1-2,5-6"
    )
    assert refusals(layout(), task(7, "1,5", pod="", container=""), pods=()) == [
        "pool exclusive is removed, but process 7 runs on its CPUs 1,5"
    ]


def test_a_pool_with_tasks_cannot_become_shared() -> None:
    shared = msgspec.structs.replace(exclusive((1, 5)), exclusive=False)
    assert refusals(layout(shared), task(7, "1,5"), pods=())[0].startswith("pool exclusive becomes shared, but process 7")


def test_a_pool_cannot_have_fewer_cores_than_are_held_or_requested() -> None:
    new = layout(exclusive((1, 5), (2, 6)))
    text = "pool exclusive would have 2 cores, but 3 are held or requested: ns/web 2, ns/db 1"
    assert refusals(new, task(7, "1,5"), task(8, "3,7", pod="u2")) == [text]


def test_a_task_that_asked_for_a_socket_stays_on_it() -> None:
    new = layout(exclusive((2, 6), (3, 7), sockets=(1, 1)))
    assert refusals(new, task(7, "1,5", socket=0), pods=()) == [
        f"pool exclusive has no list left for process 7 of pod u1, container {'c' * 12}, on socket 0, which it asked for"
    ]


def test_a_pinned_task_does_not_move() -> None:
    new = layout(exclusive((2, 6), (3, 7)))
    (text,) = refusals(new, task(7, "1,5", on_move=OnMove(How.PINNED)), pods=())
    assert text.endswith("does not move (cmk.intel.com/on-move: pinned), but would have to move from CPUs 1,5 to 2,6")


def test_a_pinned_task_that_keeps_its_list_refuses_nothing() -> None:
    pinned = task(7, "1,5", on_move=OnMove(How.PINNED))
    assert plan(OLD, layout(exclusive((1, 5))), [pinned]).keeps == (pinned,)


def test_a_task_moves_to_a_list_on_its_socket_if_there_is_one() -> None:
    new = layout(exclusive((2, 6), (3, 7), sockets=(1, 0)))
    (move,) = plan(OLD, new, [task(7, "1,5")]).moves
    assert (move.lists, move.after.generation) == (("3,7",), 2)
    assert describe(move) == "process 7 moved from CPUs 1,5 to 3,7"


def test_a_task_on_two_cores_keeps_the_one_that_remains() -> None:
    (move,) = plan(OLD, layout(exclusive((2, 6), (4, 8))), [task(7, "1,5", "2,6")]).moves
    assert move.lists == ("2,6", "4,8")


def test_shared_tasks_follow_their_pool() -> None:
    (move,) = plan(OLD, layout(infra=(0, 4)), [task(7, "0", pool="infra", pod="")]).moves
    assert (move.lists, sorted(move.new)) == (("0,4",), [0, 4])


def test_a_refusal_names_a_static_pod() -> None:
    assert "of pod kube-system/static-node1" in refusals(layout(), task(7, "1,5", pod="f" * 32), pods=(STATIC,))[0]


def test_requests_that_no_node_can_serve_prevent_no_change() -> None:
    absurd = Pod("u9", "ns", "absurd", {"cmk.intel.com/exclusive-cores": 65537})
    smaller, larger = layout(exclusive((1, 5), (2, 6))), layout(exclusive((1, 5), (2, 6), (3, 7), (4, 8)))
    assert plan(OLD, smaller, [task(7, "1,5")], [WEB, absurd]).refusals == ()
    # What overflowed sums have admitted, each within the pool but together above it, holds what the pool has and no more.
    full = [msgspec.structs.replace(WEB, uid=f"u{number}") for number in range(4)]
    assert plan(OLD, larger, [], full).refusals == ()
    assert len(refusals(smaller, pods=tuple(full))) == 1
