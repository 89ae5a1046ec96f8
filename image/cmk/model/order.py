"""In which order the moves of a plan are made: an exclusive CPU never has two owners, not for an instant.

A task goes when nobody is in its way. When everybody waits for somebody, one of them is parked on CPUs that are shared before long, or have
been until now.
"""

from __future__ import annotations

import msgspec

from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.layout import Layout
from cmk.model.plan import Move, Plan, cpus_of
from cmk.model.tasks import Process


class Step(msgspec.Struct, frozen=True):
    """Pin a task to these CPUs; ``last`` tells that it is where the plan wants it."""

    process: Process
    cpus: CpuSet
    last: bool


class NoRoomError(CmkError):
    """Tasks would have to change places, and there is no CPU to do so by; the text names it."""


def steps(plan: Plan, old: Layout, new: Layout) -> tuple[Step, ...]:
    """Every step of a plan's moves from one layout to the other; raises NoRoomError."""
    tasks = [*plan.keeps, *(move.task for move in plan.moves)]
    # Who has his CPUs for himself where he goes, and who has at this moment: one who is parked has not.
    will_own = {task.process: new.pools[task.pool].exclusive for task in tasks}
    owns = dict(will_own)
    now = {move.task.process: move.old for move in plan.moves} | {task.process: cpus_of(new, task) for task in plan.keeps}
    todo = [move for move in plan.moves if move.old != move.new]
    found: list[Step] = []
    parked: set[Process] = set()

    def in_the_way(move: Move) -> list[Process]:
        process = move.task.process
        return [
            other for other, cpus in now.items() if other != process and cpus & move.new and (will_own[process] or owns[other])
        ]

    def go(process: Process, cpus: CpuSet, *, last: bool) -> None:
        now[process] = cpus
        owns[process] = last and will_own[process]
        found.append(Step(process, cpus, last))

    while todo:
        ready = next((move for move in todo if not in_the_way(move)), None)
        if ready is not None:
            go(ready.task.process, ready.new, last=True)
            todo.remove(ready)
            continue
        # They wait for each other in a circle, which one of them has to leave, and who is parked has done so.
        owned = frozenset().union(*(cpus for process, cpus in now.items() if owns[process]))
        room = (_shared(new) - owned) or (_shared(old) - owned)
        blocking = {process for move in todo for process in in_the_way(move)} - parked
        leaving = min((process for process in blocking if not now[process] <= room), default=None)
        if not room or leaving is None:
            names = ", ".join(f"{move.task.process.pid} (CPUs {cpuset.kernel_list(move.old)})" for move in todo)
            raise NoRoomError(
                f"processes {names} would have to change places, and no CPU is free to do so by: give infra a core more"
            )
        parked.add(leaving)
        go(leaving, room, last=False)
    return tuple(found)


def _shared(layout: Layout) -> CpuSet:
    return frozenset().union(*(pool.cpus for pool in layout.pools.values() if not pool.exclusive))
