"""Whose the tasks, processes and CPUs of a change of pools are: asked for each of a thousand tasks, and so sorted once for all of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence, Set

import msgspec

from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.isolation_config import Thread
from cmk.model.layout import Layout
from cmk.model.plan import Move, Plan, cpus_of
from cmk.model.tasks import Process, Task

NOTHING: CpuSet = frozenset()
NOBODY: frozenset[Process] = frozenset()


class Member(msgspec.Struct, frozen=True):
    """A process of a task, the task's first process included. ``threads`` holds the masks before the change."""

    process: Process
    task: Process
    threads: tuple[Thread, ...]


class Moving:
    """The moves of a plan, and the processes of its tasks, as far as they are known.

    ``layout`` is the one before the change. Tasks that keep their CPUs have the same in both; what has been booked since is on the old one.
    """

    def __init__(self, plan: Plan, layout: Layout, members: Iterable[Member] = ()) -> None:
        self._moves = {move.task.process: move for move in plan.moves}
        self._members: defaultdict[Process, list[Member]] = defaultdict(list)
        self._tasks: defaultdict[Process, set[Process]] = defaultdict(set)
        for task in (*plan.keeps, *(move.task for move in plan.moves)):
            self._tasks[task.process].add(task.process)
        for member in members:
            self._members[member.task].append(member)
            self._tasks[member.process].add(member.task)
        # By container: the CPUs of tasks that keep theirs, and the old ones of those that move, each with the number of such tasks.
        self._kept: defaultdict[PodContainer, Counter[CpuSet]] = defaultdict(Counter)
        self._left: defaultdict[PodContainer, Counter[CpuSet]] = defaultdict(Counter)
        for task in plan.keeps:
            self._kept[_container(task)][cpus_of(layout, task)] += 1
        for move in plan.moves:
            self._left[_container(move.task)][move.old] += 1
        self._old = Counter(cpu for move in plan.moves for cpu in move.old)
        self._new = Counter(cpu for move in plan.moves for cpu in move.new)

    def move_of(self, task: Process) -> Move:
        """The move of a task, by its first process."""
        return self._moves[task]

    def members_of(self, task: Process) -> Sequence[Member]:
        """Known processes of a task."""
        return self._members.get(task, ())

    def is_of_others(self, process: Process, tasks: Set[Process]) -> bool:
        """Whether a process is known to be that of a task other than these, and perhaps of one of them as well."""
        return bool(self._tasks.get(process, NOBODY) - tasks)

    def pids_of_others(self, tasks: Set[Process]) -> set[int]:
        """Pids of the processes of tasks other than these."""
        return {process.pid for process in self._tasks if self.is_of_others(process, tasks)}

    def cpus_of_others(self, moves: Sequence[Move], *, started: bool) -> list[CpuSet]:
        """CPUs of other tasks in the container of these moves: a process confined to these is not one of their tasks'.

        After the first move (``started``) this holds only for tasks that keep their CPUs.
        """
        container, own = _container(moves[0].task), Counter(move.old for move in moves)
        kept = list(self._kept.get(container, ()))
        if started:
            return kept
        left = self._left.get(container, Counter())
        return kept + [cpus for cpus, number in left.items() if number > own[cpus]]

    def cpus_of_other_moves(self, move: Move, *, after: bool) -> CpuSet:
        """The CPUs to which other tasks move, or from which."""
        counted, own = (self._new, move.new) if after else (self._old, move.old)
        return frozenset(cpu for cpu, number in counted.items() if number > (cpu in own))


def _container(task: Task) -> PodContainer:
    return PodContainer(task.pod, task.container)
