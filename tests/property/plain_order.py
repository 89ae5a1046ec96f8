"""The order of steps without an index: what the real one answers is compared with this."""

from __future__ import annotations

from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout
from cmk.model.order import NoRoomError, Step, _shared
from cmk.model.plan import Move, Plan, cpus_of
from cmk.model.tasks import Process


def plain_steps(plan: Plan, old: Layout, new: Layout) -> tuple[Step, ...]:
    """The steps that carry out a plan's moves from one layout to the other; a task is parked at most once. Raises NoRoomError."""
    tasks = [*plan.keeps, *(move.task for move in plan.moves)]
    # `will_own`: the task will have its CPUs to itself at its destination. `owns`: it has them to itself now; a parked task does not.
    will_own = {task.process: new.pools[task.pool].exclusive for task in tasks}
    owns = dict(will_own)
    now = {move.task.process: move.old for move in plan.moves} | {task.process: cpus_of(new, task) for task in plan.keeps}
    waiting = [move for move in plan.moves if move.old != move.new]
    steps: list[Step] = []
    parked: set[Process] = set()

    def blockers(move: Move) -> list[Process]:
        process = move.task.process
        return [
            other for other, cpus in now.items() if other != process and cpus & move.new and (will_own[process] or owns[other])
        ]

    def add_step(process: Process, cpus: CpuSet, *, last: bool) -> None:
        now[process] = cpus
        owns[process] = last and will_own[process]
        steps.append(Step(process, cpus, last))

    while waiting:
        ready = next((move for move in waiting if not blockers(move)), None)
        if ready is not None:
            add_step(ready.task.process, ready.new, last=True)
            waiting.remove(ready)
            continue
        # The remaining moves form a cycle. Break it by parking a task that has not been parked yet.
        owned = frozenset().union(*(cpus for process, cpus in now.items() if owns[process]))
        parking = (_shared(new) - owned) or (_shared(old) - owned)
        blocking = {process for move in waiting for process in blockers(move)} - parked
        leaving = min((process for process in blocking if not now[process] <= parking), default=None)
        if not parking or leaving is None:
            raise NoRoomError("no room")
        parked.add(leaving)
        add_step(leaving, parking, last=False)
    return tuple(steps)
