"""Changes of pools under running tasks, and the journal of each: the file by which another process finishes or undoes it after a kill.

A change writes the journal, then moves every thread, then writes layout and tasks, then deletes the journal. Each of these can be
repeated (a thread that is on its new CPUs already stays there), so that a change that was interrupted anywhere simply starts again.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import partial
from itertools import groupby
from pathlib import Path

import msgspec

from cmk.host import mover, state
from cmk.host.affinity import AffinityError, mask_of
from cmk.host.members import Search, descendants, search_with_pauses
from cmk.host.moving import Member, Moving
from cmk.host.pauses import Pausing, without_pause
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.isolation_config import Thread
from cmk.model.layout import SavedLayout
from cmk.model.order import Step, ordered_steps
from cmk.model.plan import Move, Plan
from cmk.model.remap import CpuMap
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)

NOTHING: CpuSet = frozenset()
# Thread id → mask.
Masks = dict[int, CpuSet]


class Journal(msgspec.Struct, frozen=True):
    """The content of the journal file: what it takes to finish a change or to undo it. Void after a reboot."""

    boot: str
    old: SavedLayout
    new: SavedLayout
    plan: Plan
    members: tuple[Member, ...]


class StartedChange:
    """A change whose journal is written, and the order in which its tasks move."""

    def __init__(self, journal: Journal, steps: tuple[Step, ...]) -> None:
        self.journal = journal
        self.steps = steps
        self.moving = Moving(journal.plan, journal.old.layout, journal.members)
        # By first process: what tasks have started, or left, since the journal was written. Outside pods, one that was moved is not on CPUs
        # of its task alone any more, and goes on belonging to it.
        self.created: defaultdict[Process, set[Process]] = defaultdict(set)
        self._parking = {step.process: step.cpus for step in steps if not step.last}

    def parking_of(self, process: Process) -> CpuSet:
        """CPUs on which a task is parked before its last step; empty when it is not."""
        return self._parking.get(process, NOTHING)

    def moves(self) -> Iterator[tuple[Step, list[Move]]]:
        """The steps with what moves at once in each: one task, or of those in shared pools all that go the same way in their container.

        Nobody owns where such a task is or goes, so that their order does not matter; their processes are looked for together.
        """
        for is_single, group in groupby(
            self.steps, lambda step: isinstance(self._way(self.moving.move_of(step.process)), Process)
        ):
            if is_single:
                yield from ((step, [self.moving.move_of(step.process)]) for step in group)
            else:
                steps = {step.process: step for step in group}
                yield from ((steps[moves[0].task.process], moves) for moves in self.ways(map(self.moving.move_of, steps)))

    def ways(self, moves: Iterable[Move]) -> list[list[Move]]:
        """Moves by what moves at once."""
        together: dict[object, list[Move]] = {}
        for move in moves:
            together.setdefault(self._way(move), []).append(move)
        return list(together.values())

    def _way(self, move: Move) -> object:
        task = move.task
        if not task.pod or _is_exclusive(self.journal, task) or self.parking_of(task.process):
            return task.process
        return task.pod, task.container, move.old_lists, move.new_lists


class ChangeError(CmkError):
    """The change failed and was undone; the text names the process and the reason."""


def _nobody(_task: Task, _cpus: CpuSet) -> Pausing[Search]:
    yield from ()
    return Search([], is_certain=True)


class JournaledChange:
    """Carries out changes of pools. ``path`` is the journal file.

    ``write_state`` writes layout and tasks; it may be called twice with the same arguments, and what it raises passes through every method.
    ``find_family`` finds processes of a task outside pods that are confined to CPUs on which no other task can be. ``read_booked`` reads
    the tasks that were written last: those that the plan of an interrupted change does not know were booked during it, and stay so.
    """

    def __init__(
        self,
        path: Path,
        write_state: Callable[[SavedLayout, list[Task]], None],
        procfs: Procfs,
        find_family: Callable[[Task, CpuSet], Pausing[Search]] = _nobody,
        read_booked: Callable[[], Sequence[Task]] = tuple,
    ) -> None:
        self._file = state.TwinFile(path, Journal, durable=True)
        self._write_state = write_state
        self._procfs = procfs
        self._find_family = find_family
        self._read_booked = read_booked

    @property
    def fault(self) -> str:
        """Why ``resume`` or ``undo_interrupted`` has read the copy of the journal; empty if it has not."""
        return self._file.fault

    def start(self, old: SavedLayout, new: SavedLayout, plan: Plan) -> StartedChange:
        """Order the moves of a plan, and write its journal at once; raises as ``ordered_steps`` and ``write_journal`` do."""
        return without_pause(self.write_journal(old, new, plan, ordered_steps(plan, old.layout, new.layout)))

    def write_journal(self, old: SavedLayout, new: SavedLayout, plan: Plan, steps: tuple[Step, ...]) -> Pausing[StartedChange]:
        """Write the journal of a plan without refusals, with every thread's present mask; moves nothing.

        Raises StateError when the journal may or may not be on disk: if it is there after all, the next process finishes the change.
        """
        change = StartedChange(Journal(self._procfs.boot_id(), old, new, plan, ()), steps)
        members = yield from self._members(change)
        journal = msgspec.structs.replace(change.journal, members=tuple(members))
        self._file.write(journal)
        yield
        return StartedChange(journal, steps)

    def finish(self, change: StartedChange, *, just_started: bool = True) -> list[Task]:
        """Do all of ``move`` at once."""
        return without_pause(self.move(change, just_started=just_started))

    def move(
        self,
        change: StartedChange,
        *,
        just_started: bool = True,
        booked: Callable[[list[Task]], list[Task]] | None = None,
    ) -> Pausing[list[Task]]:
        """Move all threads and write the new state; returns the tasks as they are booked now.

        ``just_started`` is False for a journal that was read from the file: thread ids in it may belong to other threads by now.
        ``booked`` makes of the tasks of the plan, moved or not, those that there are at the end, when others were booked meanwhile and
        some have ended. Raises ChangeError when the change was undone, StateError when the old state could not be written either: then
        the journal stays.
        """
        journal, booked = change.journal, booked or partial(self._with_others, change.journal)
        masks = _recorded_masks(journal) if just_started else (yield from self._valid_masks(journal))
        try:
            for step, moves in change.moves():
                yield from self._move_tasks(change, step, moves, _masks_of(moves, masks), just_started=just_started)
        except AffinityError as error:
            yield from self._undo(change, booked)
            raise ChangeError(str(error)) from error
        tasks = booked(_booked(journal.plan, after=True))
        try:
            self._commit(journal.new, tasks)
        except state.StateError as error:
            yield from self._undo(change, booked)
            raise ChangeError(str(error)) from error
        return tasks

    def undo(self, change: StartedChange) -> None:
        """Restore every thread's original mask, write the old state and delete the journal. Raises StateError."""
        without_pause(self._undo(change, lambda tasks: tasks))

    def _undo(self, change: StartedChange, booked: Callable[[list[Task]], list[Task]]) -> Pausing[None]:
        masks = yield from self._valid_masks(change.journal)
        for step, moves in reversed([*change.moves()]):
            yield from self._move_tasks_back(change, step, moves, _masks_of(moves, masks))
        self._commit(change.journal.old, booked(_booked(change.journal.plan, after=False)))

    def _with_others(self, journal: Journal, tasks: list[Task]) -> list[Task]:
        """Tasks of an interrupted change, but for those whose exclusive lists others have got since, and these others.

        That a task of the plan was not written last is no proof that it has ended: the disk may have been full.
        """
        known = {task.process for task in tasks}
        since = [task for task in self._read_booked() if task.process not in known]
        taken = {(task.pool, name) for task in since for name in task.lists}
        exclusive = {name for name, pool in journal.old.layout.pools.items() if pool.exclusive}
        running = [
            task for task in tasks if task.pool not in exclusive or not any((task.pool, name) in taken for name in task.lists)
        ]
        return running + since

    def narrow_masks(self, change: StartedChange, has_moved: Callable[[Move], bool] = lambda _: True) -> Pausing[None]:
        """Restore the new masks of threads that have gained CPUs since the change was finished, of tasks that are still as it left them.

        Kernels before 6.2 give every thread of a cpuset that changes all CPUs of it, and cpusets are narrowed after the change.
        """
        masks = yield from self._valid_masks(change.journal)
        for every in change.ways(change.journal.plan.moves):
            yield
            if not (moves := [move for move in every if has_moved(move)]):
                continue
            recorded = _masks_of(moves, masks)
            now = [mask for mask in map(mask_of, recorded) if mask is not None]
            if now and not any(mask > moves[0].new for mask in now):
                continue  # the kernel widens all threads or none
            try:
                _, pids = yield from self._processes_of(change, moves, NOTHING, NOTHING)
                target = _narrowed(moves, masks, has_moved)
                yield from mover.move(self._procfs, {}, pids, target, keep=True)
            except AffinityError as error:
                log.error("cannot narrow a thread to its new CPUs after the change of pools: %s", error)

    def resume(self) -> tuple[Journal, str] | None:
        """Finish, or else undo, the change that another process has started. Raises StateError.

        Returns its journal and the reason why it was undone ("" if finished); None when there is no journal.
        """
        journal = self._file.read()
        if journal is None:
            return None
        problem = ""
        if journal.boot != self._procfs.boot_id():
            self._commit(journal.new, [])
            return journal, problem
        try:
            self.finish(_started(journal), just_started=False)
            log.info("finished an interrupted change of pools")
        except ChangeError as error:
            problem = str(error)
            log.error("undid an interrupted change of pools: %s", error)
        return journal, problem

    def undo_interrupted(self, booked: Sequence[Task]) -> bool:
        """Undo the change that another process has started; returns whether there was one. Raises StateError.

        ``booked`` are the tasks as they are now, on the journal's old layout: what a task of the journal does not hold any more is not
        restored to it, and what has passed on to another process of its family is restored to that one.
        """
        journal = self._file.read()
        if journal is not None:
            self.undo(_as_booked(_started(journal), booked))
        return journal is not None

    def forget(self) -> None:
        """Delete the journal of a change that has ended."""
        self._file.delete()

    def _move_tasks(
        self, change: StartedChange, step: Step, moves: Sequence[Move], masks: Masks, *, just_started: bool
    ) -> Pausing[None]:
        """Make one step: move the threads of tasks to their parking CPUs, or each to its new mask."""
        move, parking = moves[0], change.parking_of(step.process)
        old, new, cpu_map = move.old, move.new, CpuMap(move.old_lists, move.new_lists)

        def original(tid: int, mask: Set[int]) -> Set[int]:
            # A thread that was created on the parking CPUs has no mask of its own from before.
            return masks.get(tid) or (old if _is_parked(move, parking, mask) else mask)

        def parked_mask(tid: int, mask: Set[int]) -> Set[int]:
            return step.cpus if original(tid, mask) <= old and not mask <= new else mask

        def final_mask(tid: int, mask: Set[int]) -> Set[int]:
            before = original(tid, mask)
            # A thread on the new CPUs whose mask is not its original one has been moved already.
            if before <= old and (mask in (before, parking) or not mask <= new):
                return cpu_map.new_mask(before)
            return mask

        # Before the task's first step nobody else is on its old CPUs, unless the change is done again: then others may have come there.
        only_own = NOTHING if parking and step.last else old
        if not just_started:
            only_own -= change.moving.cpus_of_other_moves(move, after=True)
        known, pids = yield from self._processes_of(change, moves, parking, only_own)
        yield from mover.move(self._procfs, known if just_started else {}, pids, final_mask if step.last else parked_mask)

    def _move_tasks_back(self, change: StartedChange, step: Step, moves: Sequence[Move], masks: Masks) -> Pausing[None]:
        """Undo one step: the CPUs that tasks came from are free once all later steps are undone."""
        move, parking = moves[0], change.parking_of(step.process)
        old, new, cpu_map = move.old, move.new, CpuMap(move.new_lists, move.old_lists)

        def target(tid: int, mask: Set[int]) -> Set[int]:
            if not mask <= new and not _is_parked(move, parking, mask):
                return mask
            if parking and step.last:
                return mask if mask <= old else parking
            return masks.get(tid) or (old if _is_parked(move, parking, mask) else cpu_map.new_mask(mask))

        try:
            # When a last step is undone nobody else is on the task's new CPUs, unless a task that has not moved yet is.
            only_own = new - change.moving.cpus_of_other_moves(move, after=False) if step.last else NOTHING
            _, pids = yield from self._processes_of(change, moves, parking, only_own)
            yield from mover.move(self._procfs, {}, pids, target, keep=True)
        except AffinityError as error:
            log.error("cannot restore a thread's CPUs while a change of pools is undone: %s", error)

    def _processes_of(
        self, change: StartedChange, moves: Sequence[Move], parking: CpuSet, only_own: CpuSet
    ) -> Pausing[tuple[mover.Threads, Callable[[], Pausing[mover.Pids]]]]:
        """The recorded processes of tasks with their threads, and a function that lists the pids of these and of those created since.

        On the CPUs ``only_own`` no other task can have processes.
        """
        move, moving, tasks = moves[0], change.moving, {each.task.process for each in moves}
        task, others = move.task, moving.cpus_of_others(moves, started=True)
        cpus = move.old | move.new | parking
        created = change.created[task.process]
        members = [member for each in moves for member in moving.members_of(each.task.process)]
        recorded = [member.process for member in members]

        def pids() -> Pausing[mover.Pids]:
            known = [] if task.pod else (yield from self._alive(recorded))
            own = only_own if _is_exclusive(change.journal, task) else NOTHING
            found = yield from self._find(task, known, moving, cpus, others, own)
            created.update(process for process in found.members if not moving.is_of_others(process, tasks))
            every = dict.fromkeys((*recorded, *sorted(created)))
            alive = set(found.members)  # a moment ago
            alive |= {*(yield from self._alive(process for process in every if process not in alive))}
            listed = [process.pid for process in every if process in alive]
            return mover.Pids(list(dict.fromkeys(listed)), found.is_certain)

        alive = set((yield from self._alive(recorded)))
        return {
            member.process.pid: [thread.tid for thread in member.threads] for member in members if member.process in alive
        }, pids

    def _alive(self, processes: Iterable[Process]) -> Pausing[list[Process]]:
        alive = []
        for process in processes:
            if self._procfs.is_alive(process):
                alive.append(process)
            yield
        return alive

    def _members(self, change: StartedChange) -> Pausing[list[Member]]:
        """Processes of the tasks that move; those of tasks that move at once are found together, and are then the first one's."""
        moving, members = change.moving, []
        for _, moves in change.moves():
            tasks, move = {move.task.process for move in moves}, moves[0]
            only_own = move.old if change.journal.new.layout.pools[move.task.pool].exclusive else NOTHING
            others = moving.cpus_of_others(moves, started=False)
            found = yield from self._find(move.task, sorted(tasks), moving, move.old, others, only_own)
            own = (process for process in found.members if not moving.is_of_others(process, tasks))
            for process in dict.fromkeys((*sorted(tasks), *own)):
                try:
                    threads = tuple(self._threads(process.pid))
                except ProcessLookupError:
                    continue
                members.append(Member(process, process if process in tasks else move.task.process, threads))
                yield
        return members

    def _find(
        self,
        task: Task,
        known: Sequence[Process],
        moving: Moving,
        cpus: CpuSet,
        others: list[CpuSet],
        only_own: CpuSet,
    ) -> Pausing[Search]:
        """Further processes of a task: in a pod those of its container, else the descendants of known ones and who is on ``only_own``."""
        if task.pod:
            return (yield from search_with_pauses(self._procfs, PodContainer(task.pod, task.container), cpus, others))
        found = yield from descendants(self._procfs, known, moving.pids_of_others({task.process}))
        if not only_own:
            return Search(found, is_certain=True)
        family = yield from self._find_family(task, only_own)
        return Search(found + family.members, family.is_certain)

    def _threads(self, pid: int) -> Iterable[Thread]:
        for tid in self._procfs.threads(pid):
            try:
                mask = frozenset(os.sched_getaffinity(tid))
                yield Thread(tid, self._procfs.start_time(tid), mask, mask)
            except ProcessLookupError:
                continue

    def _valid_masks(self, journal: Journal) -> Pausing[dict[Process, Masks]]:
        """By task: the recorded masks of threads whose ids still belong to the same threads."""
        masks: dict[Process, Masks] = {member.task: {} for member in journal.members}
        for member in journal.members:
            masks[member.task] |= {thread.tid: thread.before for thread in member.threads if self._runs(thread)}
            yield
        return masks

    def _runs(self, thread: Thread) -> bool:
        try:
            return self._procfs.start_time(thread.tid) == thread.start
        except ProcessLookupError:
            return False

    def _commit(self, saved: SavedLayout, tasks: list[Task]) -> None:
        self._write_state(saved, tasks)
        self._file.delete()


def _started(journal: Journal) -> StartedChange:
    return StartedChange(journal, ordered_steps(journal.plan, journal.old.layout, journal.new.layout))


def _as_booked(change: StartedChange, booked: Sequence[Task]) -> StartedChange:
    """A change without the tasks whose lists are not theirs any more, and with the processes that have the lists of others."""
    journal = change.journal
    present: dict[Process, Task] = {}
    for move in journal.plan.moves:
        same = [task for task in booked if (task.pool, task.lists) == (move.task.pool, move.task.lists)]
        if not _is_exclusive(journal, move.task):
            same = [task for task in same if task.process == move.task.process]
        if same:
            present[move.task.process] = same[0]
    first = {task.process for task in booked}
    members = tuple(
        msgspec.structs.replace(member, task=present[member.task].process)
        for member in journal.members
        if member.task in present and (member.process not in first or member.process == present[member.task].process)
    )
    moves = tuple(
        msgspec.structs.replace(move, task=present[move.task.process])
        for move in journal.plan.moves
        if move.task.process in present
    )
    moving = {move.task.process for move in moves}
    keeps = tuple(task for task in booked if task.process not in moving)
    steps = tuple(
        msgspec.structs.replace(step, process=present[step.process].process) for step in change.steps if step.process in present
    )
    plan = msgspec.structs.replace(journal.plan, keeps=keeps, moves=moves)
    return StartedChange(msgspec.structs.replace(journal, plan=plan, members=members), steps)


def _is_parked(move: Move, parking: CpuSet, mask: Set[int]) -> bool:
    """Whether a mask is that of parked threads, or of one that has narrowed it meanwhile.

    In a pod a narrower one may be that of a process which has been on shared CPUs before; outside, all such were recorded.
    """
    return mask == parking or (mask <= parking and not move.task.pod)


def _is_exclusive(journal: Journal, task: Task) -> bool:
    return journal.old.layout.pools[task.pool].exclusive


def _narrowed(moves: Sequence[Move], masks: dict[Process, Masks], has_moved: Callable[[Move], bool]) -> mover.Target:
    """The new mask for each thread that was on its task's old lists and has more CPUs than the new ones, if the task still has these."""
    old, new, cpu_map = moves[0].old, moves[0].new, CpuMap(moves[0].old_lists, moves[0].new_lists)
    recorded = {tid: (move, mask) for move in moves for tid, mask in masks.get(move.task.process, {}).items()}

    def target(tid: int, mask: Set[int]) -> Set[int]:
        if tid not in recorded or not mask > new:
            return mask
        move, before = recorded[tid]
        return cpu_map.new_mask(before) if before <= old and has_moved(move) else mask

    return target


def _recorded_masks(journal: Journal) -> dict[Process, Masks]:
    """By task: masks of threads before the change."""
    masks: dict[Process, Masks] = {member.task: {} for member in journal.members}
    for member in journal.members:
        masks[member.task] |= {thread.tid: thread.before for thread in member.threads}
    return masks


def _masks_of(moves: Iterable[Move], masks: dict[Process, Masks]) -> Masks:
    """Recorded masks of all threads of these tasks."""
    return {tid: mask for move in moves for tid, mask in masks.get(move.task.process, {}).items()}


def _booked(plan: Plan, *, after: bool) -> list[Task]:
    moved = [move.after if after else move.task for move in plan.moves]
    return sorted([*plan.keeps, *moved], key=lambda task: task.process)
