"""Pools changed under running tasks: a journal first, then every thread, then the books; whoever finds a journal finishes or undoes it.

Every step may be made again: a thread that is where it should be is left there. So a change that was cut anywhere is begun afresh.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Set
from pathlib import Path

import msgspec

from cmk.host import mover, state
from cmk.host.affinity import AffinityError
from cmk.host.members import descendants, find_members
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.isolation_config import Thread
from cmk.model.layout import SavedLayout
from cmk.model.order import Step, steps
from cmk.model.plan import Move, Plan, cpus_of
from cmk.model.remap import Mapping
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)

NOTHING: CpuSet = frozenset()
# Thread number → mask.
Masks = dict[int, CpuSet]


class Member(msgspec.Struct, frozen=True):
    """A process of a task; the first is one too. ``threads`` have the masks they had before the change."""

    process: Process
    task: Process
    threads: tuple[Thread, ...]


class Journal(msgspec.Struct, frozen=True):
    """A change that has begun: enough to finish it and to undo it. Void after a reboot."""

    boot: str
    old: SavedLayout
    new: SavedLayout
    plan: Plan
    members: tuple[Member, ...]


class ChangeError(CmkError):
    """The change could not be made, and is undone; the text says which process is in the way, and why."""


class Change:
    """``journal`` is a file; ``book`` writes layout and tasks, which may be done twice. Everything raises what ``book`` raises."""

    def __init__(self, journal: Path, book: Callable[[SavedLayout, list[Task]], None], procfs: Procfs) -> None:
        self._journal = journal
        self._book = book
        self._procfs = procfs

    def begin(self, old: SavedLayout, new: SavedLayout, plan: Plan) -> Journal:
        """Note durably what a plan without refusals is about to do, and every mask as it is now.

        Raises NoRoomError before anything has happened, StateError.
        """
        steps(plan, old.layout, new.layout)
        journal = Journal(self._procfs.boot_id(), old, new, plan, tuple(self._members(plan, new)))
        state.write(self._journal, journal, durable=True)
        return journal

    def finish(self, journal: Journal, *, just_begun: bool = True) -> list[Task]:
        """Make it come true; returns the tasks as they are booked then. Raises ChangeError when it was undone, StateError when not even
        that could be written: then the journal stays.

        A journal that was found may name threads whose numbers others have by now.
        """
        made, masks = _steps(journal), _noted(journal) if just_begun else self._masks(journal)
        try:
            for step in made:
                self._go(journal, step, _rooms(made, step.process), masks.get(step.process, {}), just_begun=just_begun)
        except AffinityError as error:
            self.undo(journal)
            raise ChangeError(str(error)) from error
        tasks = _booked(journal.plan, after=True)
        try:
            self._commit(journal.new, tasks)
        except state.StateError as error:
            self.undo(journal)
            raise ChangeError(str(error)) from error
        return tasks

    def undo(self, journal: Journal) -> None:
        """Everybody back to where he was, and no journal any more. Raises StateError."""
        made, masks = _steps(journal), self._masks(journal)
        for step in reversed(made):
            self._back(journal, step, _rooms(made, step.process), masks.get(step.process, {}))
        self._commit(journal.old, _booked(journal.plan, after=False))

    def begun(self) -> Journal | None:
        """What was begun and has not ended, of this boot or another; raises StateError."""
        return state.read(self._journal, Journal)

    def assert_masks(self, journal: Journal) -> None:
        """Put threads back that have gained CPUs since a change was finished. Kernels before 6.2 give every thread of a cpuset that changes
        all its CPUs, and cpusets are narrowed after the change.
        """
        for process, masks in self._masks(journal).items():
            move = _move_of(journal.plan, process)
            try:
                mover.move(self._procfs, {}, self._pids(journal, move, frozenset())[1], _narrowed(move, masks))
            except AffinityError as error:
                log.error("after the change: %s", error)

    def resume(self) -> tuple[Journal, str] | None:
        """Finish, or else undo, what another agent began; returns it and why it was undone, or None without a journal.

        Raises StateError.
        """
        journal = self.begun()
        if journal is None:
            return None
        problem = ""
        if journal.boot != self._procfs.boot_id():
            self._commit(journal.new, [])
            return journal, problem
        try:
            self.finish(journal, just_begun=False)
            log.info("finished a change of pools that had been cut short")
        except ChangeError as error:
            problem = str(error)
            log.error("undid a change of pools that had been cut short: %s", error)
        return journal, problem

    def _go(self, journal: Journal, step: Step, rooms: frozenset[CpuSet], masks: Masks, *, just_begun: bool) -> None:
        move = _move_of(journal.plan, step.process)
        old, new, parked, mapping = move.old, move.new, step.cpus, Mapping(move.old_lists, move.new_lists)

        def park(tid: int, mask: Set[int]) -> Set[int]:
            before = masks.get(tid) or (old if mask in rooms else mask)
            return parked if before <= old and not mask <= new else mask

        def settle(tid: int, mask: Set[int]) -> Set[int]:
            before = masks.get(tid) or (old if mask in rooms else mask)
            # One that is in the new lists and not as it was has been here before.
            if before <= old and (mask == before or mask in rooms or not mask <= new):
                return mapping.mask(before)
            return mask

        known, find = self._pids(journal, move, rooms)
        mover.move(self._procfs, known if just_begun else {}, find, settle if step.last else park)

    def _back(self, journal: Journal, step: Step, rooms: frozenset[CpuSet], masks: Masks) -> None:
        """To where it was before this step: where it came from is free when all later ones have been undone."""
        move = _move_of(journal.plan, step.process)
        old, new, reverse = move.old, move.new, Mapping(move.new_lists, move.old_lists)
        room = next(iter(rooms)) if rooms and step.last else NOTHING

        def target(tid: int, mask: Set[int]) -> Set[int]:
            if not mask <= new and mask not in rooms:
                return mask
            if room:
                return mask if mask <= old else room
            return masks.get(tid) or (old if mask in rooms else reverse.mask(mask))

        try:
            mover.move(self._procfs, {}, self._pids(journal, move, rooms)[1], target)
        except AffinityError as error:
            log.error("on the way back: %s", error)

    def _pids(self, journal: Journal, move: Move, rooms: frozenset[CpuSet]) -> tuple[mover.Threads, Callable[[], list[int]]]:
        """Processes of a task: those that were known, with their threads, and a way to find what they have made since."""
        task = move.task
        others = _others(journal.new, journal.plan, task, begun=True)
        taken = {member.process for member in journal.members if member.task != task.process}
        cpus = move.old.union(move.new, *rooms)

        def known() -> list[Member]:
            return [member for member in journal.members if member.task == task.process and self._procfs.is_alive(member.process)]

        def find() -> list[int]:
            born = set(self._find(task, cpus, others)) - taken
            return list(dict.fromkeys(process.pid for process in (*(member.process for member in known()), *sorted(born))))

        return {member.process.pid: [thread.tid for thread in member.threads] for member in known()}, find

    def _members(self, plan: Plan, new: SavedLayout) -> Iterable[Member]:
        for move in plan.moves:
            task = move.task
            born = self._find(task, move.old, _others(new, plan, task, begun=False))
            for process in dict.fromkeys((task.process, *born)):
                try:
                    yield Member(process, task.process, tuple(self._threads(process.pid)))
                except ProcessLookupError:
                    continue

    def _find(self, task: Task, cpus: CpuSet, others: list[CpuSet]) -> list[Process]:
        """Processes that go with a task: in a pod those of its container, else what it has started itself."""
        if not task.pod:
            return descendants(self._procfs, task.process)
        return find_members(self._procfs, PodContainer(task.pod, task.container), cpus, others)

    def _threads(self, pid: int) -> Iterable[Thread]:
        for tid in self._procfs.threads(pid):
            try:
                mask = frozenset(os.sched_getaffinity(tid))
                yield Thread(tid, self._procfs.start_time(tid), mask, mask)
            except ProcessLookupError:
                continue

    def _masks(self, journal: Journal) -> dict[Process, Masks]:
        """By task: masks of threads as they were, of those that are still the same threads."""
        starts = {thread.tid: thread.start for member in journal.members for thread in member.threads}
        return {
            task: {tid: mask for tid, mask in masks.items() if self._started(tid) == starts[tid]}
            for task, masks in _noted(journal).items()
        }

    def _started(self, tid: int) -> int:
        try:
            return self._procfs.start_time(tid)
        except ProcessLookupError:
            return -1

    def _commit(self, saved: SavedLayout, tasks: list[Task]) -> None:
        self._book(saved, tasks)
        self._journal.unlink(missing_ok=True)


def _narrowed(move: Move, masks: Masks) -> mover.Target:
    """Where threads belong that were on the task's lists before and have more than those after."""
    old, new, mapping = move.old, move.new, Mapping(move.old_lists, move.new_lists)

    def target(tid: int, mask: Set[int]) -> Set[int]:
        before = masks.get(tid)
        return mapping.mask(before) if before and before <= old and mask > new else mask

    return target


def _noted(journal: Journal) -> dict[Process, Masks]:
    """By task: masks of threads as they were."""
    found: dict[Process, Masks] = {member.task: {} for member in journal.members}
    for member in journal.members:
        found[member.task] |= {thread.tid: thread.before for thread in member.threads}
    return found


def _steps(journal: Journal) -> tuple[Step, ...]:
    return steps(journal.plan, journal.old.layout, journal.new.layout)


def _move_of(plan: Plan, process: Process) -> Move:
    return next(move for move in plan.moves if move.task.process == process)


def _others(new: SavedLayout, plan: Plan, task: Task, *, begun: bool) -> list[CpuSet]:
    """CPUs of other tasks in the same container: processes confined there are not this one's. Once moves have ``begun`` it is only those
    that stay of whom that can be said.
    """
    found = [(kept, cpus_of(new.layout, kept)) for kept in plan.keeps]
    if not begun:
        found += [(move.task, move.old) for move in plan.moves]
    return [
        cpus
        for other, cpus in found
        if other.process != task.process and (other.pod, other.container) == (task.pod, task.container)
    ]


def _rooms(made: Iterable[Step], process: Process) -> frozenset[CpuSet]:
    """Where a task is parked on its way, if it is."""
    return frozenset(step.cpus for step in made if step.process == process and not step.last)


def _booked(plan: Plan, *, after: bool) -> list[Task]:
    moved = [move.after if after else move.task for move in plan.moves]
    return sorted([*plan.keeps, *moved], key=lambda task: task.process)
