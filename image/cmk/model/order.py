"""The order in which the tasks of a plan move, so that an exclusive CPU never has two owners, not for an instant.

A task moves when no other is on the CPUs that it goes to. When every task waits for another, one of them is parked meanwhile on CPUs
that will be shared or have been until now.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import msgspec

from cmk.model import cpuset
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.layout import Layout
from cmk.model.plan import Move, Plan, cpus_of
from cmk.model.tasks import Process


class Step(msgspec.Struct, frozen=True):
    """Pin a task to ``cpus``: its destination in the plan if ``last``, else CPUs on which it is parked."""

    process: Process
    cpus: CpuSet
    last: bool


class NoRoomError(CmkError):
    """Tasks would have to exchange CPUs, and no CPU is free to park one of them; the text names the tasks and the remedy."""


def ordered_steps(plan: Plan, old: Layout, new: Layout) -> tuple[Step, ...]:
    """The steps that carry out a plan's moves from one layout to the other; a task is parked at most once. Raises NoRoomError."""
    places = _Places(plan, new)
    waiting = {number: move for number, move in enumerate(plan.moves) if move.old != move.new}
    # Numbers of moves that may be ready, and by CPU of moves that go there.
    candidates = list(waiting)
    going: defaultdict[int, list[int]] = defaultdict(list)
    for number, move in waiting.items():
        for cpu in move.new:
            going[cpu].append(number)
    steps: list[Step] = []
    parked: set[Process] = set()

    def add_step(process: Process, cpus: CpuSet, *, last: bool) -> None:
        for cpu in places.move(process, cpus, last=last):
            for number in going[cpu]:
                heapq.heappush(candidates, number)
        steps.append(Step(process, cpus, last))

    while waiting:
        if candidates:
            number = heapq.heappop(candidates)
            if number in waiting and not places.is_blocked(waiting[number]):
                ready = waiting.pop(number)
                add_step(ready.task.process, ready.new, last=True)
            continue
        # The remaining moves form a cycle. Break it by parking a task that has not been parked yet.
        parking = (_shared(new) - places.owned) or (_shared(old) - places.owned)
        blocking = {process for move in waiting.values() for process in places.blockers(move)} - parked
        leaving = min((process for process in blocking if not places.now[process] <= parking), default=None)
        if not parking or leaving is None:
            names = ", ".join(f"{move.task.process.pid} (CPUs {cpuset.kernel_list(move.old)})" for move in waiting.values())
            raise NoRoomError(
                f"processes {names} would have to exchange CPUs, and no CPU is free to park one of them: give pool infra one core more"
            )
        parked.add(leaving)
        add_step(leaving, parking, last=False)
    return tuple(steps)


class _Places:
    """Where the tasks are, step by step: ``now`` by task, and the tasks on each CPU, for a node may have a thousand."""

    def __init__(self, plan: Plan, new: Layout) -> None:
        tasks = [*plan.keeps, *(move.task for move in plan.moves)]
        # `will_own`: the task will have its CPUs to itself at its destination; a parked task, and all others, share them.
        self._will_own = {task.process: new.pools[task.pool].exclusive for task in tasks}
        self.now: dict[Process, CpuSet] = {}
        self._users: defaultdict[int, set[Process]] = defaultdict(set)
        self._owners: defaultdict[int, set[Process]] = defaultdict(set)
        for task in plan.keeps:
            self._enter(task.process, cpus_of(new, task), owns=self._will_own[task.process])
        for move in plan.moves:
            self._enter(move.task.process, move.old, owns=self._will_own[move.task.process])

    @property
    def owned(self) -> CpuSet:
        """CPUs that a task has to itself."""
        return frozenset(cpu for cpu, owners in self._owners.items() if owners)

    def is_blocked(self, move: Move) -> bool:
        """Whether somebody is on the CPUs that a task goes to: anybody if it will own them, else an owner."""
        process, others = move.task.process, self._in_the_way_of(move)
        return any(len(others[cpu]) > (process in others[cpu]) for cpu in move.new if cpu in others)

    def blockers(self, move: Move) -> set[Process]:
        """Who is in the way of a move."""
        others = self._in_the_way_of(move)
        return set().union(*(others[cpu] for cpu in move.new if cpu in others)) - {move.task.process}

    def move(self, process: Process, cpus: CpuSet, *, last: bool) -> CpuSet:
        """Move a task to its destination, or park it; returns the CPUs on which it was."""
        before = self.now[process]
        for cpu in before:
            self._users[cpu].discard(process)
            self._owners[cpu].discard(process)
        self._enter(process, cpus, owns=last and self._will_own[process])
        return before

    def _in_the_way_of(self, move: Move) -> dict[int, set[Process]]:
        return self._users if self._will_own[move.task.process] else self._owners

    def _enter(self, process: Process, cpus: CpuSet, *, owns: bool) -> None:
        self.now[process] = cpus
        for cpu in cpus:
            self._users[cpu].add(process)
            if owns:
                self._owners[cpu].add(process)


def _shared(layout: Layout) -> CpuSet:
    return frozenset().union(*(pool.cpus for pool in layout.pools.values() if not pool.exclusive))
