"""Direct mode's state: layout and tasks of one host, read and changed under a lock. ``cmk.direct`` allocates in it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from cmk import direct
from cmk.host import affinity, oldtree, state
from cmk.host.procfs import Procfs
from cmk.model import cpuset
from cmk.model.adoption import TakenOver
from cmk.model.layout import Layout, SavedLayout
from cmk.model.ledger import Ledger, Refused, Request, Task


class State(msgspec.Struct, frozen=True):
    """Everything in one file, so that a change is one rename. ``moving`` maps pids to lists that a change was about to give them."""

    saved: SavedLayout
    boot: str
    tasks: list[Task] = []
    moving: dict[str, tuple[str, ...]] = {}


class ConfDir:
    """One directory. Methods raise StateError; who changes anything holds ``cmk.direct.Lock``."""

    def __init__(self, path: Path, procfs: Procfs) -> None:
        self.path = path
        self._procfs = procfs
        self._file = path / direct.STATE

    def saved(self) -> SavedLayout | None:
        """The layout, or None before ``cmk init``."""
        found = state.read(self._file, State)
        return found.saved if found else None

    def ledger(self, saved: SavedLayout) -> tuple[Ledger, list[Task]]:
        """Living tasks on the layout, and those that are dead."""
        found = state.read(self._file, State)
        ledger = Ledger(saved.layout, require_grant=False)
        dead = []
        for task in found.tasks if found else []:
            alive = found is not None and found.boot == self._procfs.boot_id() and self._procfs.is_alive(task.process)
            if not alive or not ledger.restore(task):
                dead.append(task)
        return ledger, dead

    def keep(self, saved: SavedLayout, ledger: Ledger, moving: dict[str, tuple[str, ...]] | None = None) -> None:
        """Write layout and tasks."""
        whole = State(saved, self._procfs.boot_id(), list(ledger.tasks.values()), moving or {})
        state.write(self._file, whole, durable=True, mode=0o644)

    def start(self, saved: SavedLayout) -> None:
        """Write a layout that nobody is on yet."""
        self.keep(saved, Ledger(saved.layout))

    def take_over(self, found: TakenOver, saved: SavedLayout) -> tuple[Ledger, list[str], Path | None]:
        """Make an old layout and its living tasks ours; returns ledger, dropped tasks, and where an old tree is set aside now."""
        tasks, dropped = oldtree.living_tasks(found, self._procfs)
        ledger = Ledger(saved.layout, require_grant=False)
        for task in tasks:
            if not ledger.restore(task):
                dropped.append(f"process {task.process.pid} of pool {task.pool}: its list has another owner")
        self.keep(saved, ledger)
        try:
            return ledger, dropped, oldtree.set_aside(self.path) if oldtree.exists(self.path) else None
        except OSError as error:
            raise state.StateError(f"cannot set {self.path / oldtree.POOLS} aside: {error.strerror}") from error

    def recover(self, saved: SavedLayout) -> Ledger:
        """The living tasks; had a change been interrupted, each is put back where the ledger has it."""
        found = state.read(self._file, State)
        ledger, _ = self.ledger(saved)
        if found and found.moving:
            for task in ledger.tasks.values():
                if str(task.process.pid) in found.moving:
                    self._put_back(task, ledger.cpus_of(task))
            self.keep(saved, ledger)
        return ledger

    def move(self, ledger: Ledger, now: SavedLayout, saved: SavedLayout) -> list[tuple[Task, Task]]:
        """Put the tasks of a ledger onto another layout: each keeps its lists when they are still there, else gets others of its socket, or
        any; every thread is pinned and read back. Returns (before, after) of those that moved; raises Refused or AffinityError with
        everything as it was. Killed on the way, old and new lists of whoever moves stay taken until ``recover``.
        """
        planned = rehouse(ledger, saved.layout)
        changes = [(before, after) for before, after in planned if before != after]
        self.keep(now, ledger, {str(before.process.pid): after.lists for before, after in changes})
        fresh = Ledger(saved.layout, (after for _, after in planned), require_grant=False)
        moved: list[Task] = []
        try:
            for before, after in changes:
                old = ledger.cpus_of(before)
                moved.append(before)
                # A mask that is not within the old lists is the task's own doing (--no-affinity).
                if frozenset(os.sched_getaffinity(before.process.pid)) <= old:
                    affinity.pin(self._procfs, before.process.pid, fresh.cpus_of(after))
        except (affinity.AffinityError, ProcessLookupError, PermissionError) as error:
            for before in moved:
                self._put_back(before, ledger.cpus_of(before))
            self.keep(now, ledger)
            raise affinity.AffinityError(
                f"process {moved[-1].process.pid} cannot be moved: {error}; nothing was changed"
            ) from error
        self.keep(saved, fresh)
        return changes

    def remove(self) -> None:
        """Take everything of ours away; the directory itself only when nothing else is in it."""
        for name in (direct.STATE, direct.LOCK):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _put_back(self, task: Task, cpus: cpuset.CpuSet) -> None:
        try:
            affinity.pin(self._procfs, task.process.pid, cpus)
        except (affinity.AffinityError, ProcessLookupError):
            return  # it has ended, or stays where it is: within what was allowed before


def rehouse(ledger: Ledger, layout: Layout) -> list[tuple[Task, Task]]:
    """Where each task goes on another layout; raises Refused when one has no place."""
    fresh = Ledger(layout, require_grant=False)
    homeless = [task for task in ledger.tasks.values() if not fresh.restore(task)]
    for task in homeless:
        sockets = {item.socket for item in ledger.layout.pools[task.pool].lists if item.name in task.lists}
        request = Request(task.pool, task.process, cores=len(task.lists), socket=task.socket)
        same = msgspec.structs.replace(request, socket=min(sockets)) if len(sockets) == 1 else request
        try:
            try:
                fresh.allocate(same)
            except Refused:
                fresh.allocate(request)
        except Refused as refusal:
            raise Refused(
                f"process {task.process.pid} holds {' '.join(task.lists)} of pool {task.pool} and would have no place: {refusal}",
                final=refusal.final,
            ) from refusal
    return [(task, _renewed(task, fresh.tasks[process])) for process, task in ledger.tasks.items()]


def _renewed(before: Task, after: Task) -> Task:
    return msgspec.structs.replace(before, lists=after.lists)
