"""Direct mode's state: layout and tasks of one host, read and changed under a lock. ``cmk.isolate.local`` allocates in it.

A change that was cut short is undone by whoever comes next, not finished: meanwhile ``cmk isolate`` may have handed out lists of the old
layout.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cmk.host import state
from cmk.host.journal import ChangeError, JournaledChange
from cmk.host.notify import Notifier
from cmk.host.procfs import Procfs
from cmk.isolate import local
from cmk.legacy import tree
from cmk.legacy.takeover import TakenOver
from cmk.model.choice import Refused
from cmk.model.layout import SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.plan import Plan, plan
from cmk.model.tasks import Task

JOURNAL = "journal.json"


class State(msgspec.Struct, frozen=True):
    """Everything in one file, so that a change is one rename. ``moving`` maps pids to lists that a change was about to give them."""

    saved: SavedLayout
    boot: str
    tasks: list[Task] = []
    moving: dict[str, tuple[str, ...]] = {}


class ConfDir:
    """One directory. Methods raise StateError; who changes anything holds ``cmk.isolate.local.Lock``."""

    def __init__(self, path: Path, procfs: Procfs) -> None:
        self.path = path
        self._procfs = procfs
        self._file = path / local.STATE

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
        tasks, dropped = tree.living_tasks(found, self._procfs)
        ledger = Ledger(saved.layout, require_grant=False)
        for task in tasks:
            if not ledger.restore(task):
                dropped.append(f"process {task.process.pid} of pool {task.pool}: its list has another owner")
        self.keep(saved, ledger)
        try:
            return ledger, dropped, tree.set_aside(self.path) if tree.exists(self.path) else None
        except OSError as error:
            raise state.StateError(f"cannot set {self.path / tree.POOLS} aside: {error.strerror}") from error

    def recover(self, saved: SavedLayout) -> Ledger:
        """The living tasks; had a change been interrupted, each is put back where the ledger has it."""
        found = state.read(self._file, State)
        change = JournaledChange(self.path / JOURNAL, self._book, self._procfs)
        if not change.undo_interrupted() and found and found.moving:
            self.keep(saved, self.ledger(saved)[0])
        ledger = self.ledger(saved)[0]
        Notifier([self.path], self._procfs).write_all(ledger)
        return ledger

    def move(self, ledger: Ledger, now: SavedLayout, saved: SavedLayout) -> Plan:
        """Put the tasks of a ledger onto another layout, as planned; returns the plan. Raises Refused, NoRoomError or ChangeError with
        everything as it was. Killed on the way, old and new lists of whoever moves stay taken until ``recover``.
        """
        found = plan(now.layout, saved.layout, ledger.tasks.values())
        if found.refusals:
            raise Refused("; ".join(refusal.text for refusal in found.refusals), final=True)
        change = JournaledChange(self.path / JOURNAL, self._book, self._procfs)
        started = change.start(now, saved, found)
        self.keep(now, ledger, {str(move.task.process.pid): move.lists for move in found.moves})
        try:
            change.finish(started)
        except ChangeError as error:
            raise ChangeError(f"{error}; nothing was changed") from error
        notifier, fresh = Notifier([self.path], self._procfs), self.ledger(saved)[0]
        notifier.write_all(fresh)
        for move in found.moves:
            notifier.signal_task(move.after)
        return found

    def remove(self) -> None:
        """Take everything of ours away; the directory itself only when nothing else is in it."""
        Notifier([self.path], self._procfs).remove_all()
        for name in (local.STATE, JOURNAL, local.LOCK):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _book(self, saved: SavedLayout, tasks: list[Task]) -> None:
        """What a change wants to be written. When it goes back to the layout there is, the tasks that are booked are right."""
        found = state.read(self._file, State)
        if found is not None and found.saved == saved:
            self.keep(saved, self.ledger(saved)[0])
        else:
            self.keep(saved, Ledger(saved.layout, tasks, require_grant=False))
