"""The order of moves on layouts of two cores; tests/property/test_plan.py has random ones."""

from __future__ import annotations

import pytest

from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.order import NoRoomError, Step, _Places, ordered_steps
from cmk.model.plan import Plan, plan
from cmk.model.tasks import Process, Task

WEB, DB = Process(7, 1), Process(8, 1)
SPARE = frozenset({0})


def layout(exclusive: int, gold: int, infra: frozenset[int] = SPARE) -> Layout:
    """Two exclusive pools of one CPU each, and pool infra."""
    cpus = {"exclusive": frozenset({exclusive}), "gold": frozenset({gold}), "infra": infra}
    return Layout({name: Pool(name, name != "infra", (CpuList(part, 0),) if part else ()) for name, part in cpus.items()})


def change(old: Layout, new: Layout) -> Plan:
    return plan(
        old,
        new,
        [Task(process, pool, (old.pools[pool].lists[0].name,)) for process, pool in ((WEB, "exclusive"), (DB, "gold"))],
    )


def order(old: Layout, new: Layout) -> list[Step]:
    return list(ordered_steps(change(old, new), old, new))


@pytest.mark.parametrize(
    ("old", "new", "steps"),
    [
        pytest.param((1, 2), (1, 2), [], id="nothing moves"),
        pytest.param((1, 2), (3, 4), [(WEB, 3, True), (DB, 4, True)], id="free destinations, by process"),
        pytest.param((1, 2), (2, 3), [(DB, 3, True), (WEB, 2, True)], id="whoever blocks another moves first"),
        pytest.param((1, 2), (2, 1), [(WEB, 0, False), (DB, 1, True), (WEB, 2, True)], id="a cycle is broken by parking"),
    ],
)
def test_a_task_moves_when_its_destination_is_free(
    old: tuple[int, int], new: tuple[int, int], steps: list[tuple[Process, int, bool]]
) -> None:
    assert order(layout(*old), layout(*new)) == [Step(process, frozenset({cpu}), last) for process, cpu, last in steps]


def test_a_cycle_with_no_cpu_to_park_on_names_the_processes_and_the_remedy() -> None:
    none: frozenset[int] = frozenset()
    with pytest.raises(NoRoomError, match=r"processes 7 \(CPUs 1\), 8 \(CPUs 2\) .* give pool infra one core more"):
        order(layout(1, 2, none), layout(2, 1, none))


def test_the_work_for_a_thousand_tasks_of_a_shared_list_grows_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(number: int) -> int:
        before, after = CpuList(frozenset({1}), 0), CpuList(frozenset({2}), 0)
        old, new = (Layout({"shared": Pool("shared", False, (item,))}) for item in (before, after))
        planned = plan(old, new, [Task(Process(pid, 1), "shared", ("1",)) for pid in range(1, number + 1)])
        looks: list[object] = []
        blocked = _Places.is_blocked
        monkeypatch.setattr(_Places, "is_blocked", lambda self, move: looks.append(move) or blocked(self, move))
        assert len(ordered_steps(planned, old, new)) == number
        monkeypatch.undo()
        return len(looks)

    assert [work(number) for number in (10, 100, 1000)] == [10, 100, 1000]
