"""Layout and tasks of one host without an agent: the file ``pools.json`` of a directory, read and changed under the directory's lock.

``cmk.isolate.local`` allocates in the same file; its docstring has the schema. The next command undoes a change that was interrupted, and
does not finish it: meanwhile ``cmk isolate`` may have allocated lists of the old layout.
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


class PoolsFile(msgspec.Struct, frozen=True):
    """The whole ``pools.json``, so that a change of layout and tasks is one rename.

    ``boot`` is the boot id under which the tasks were started. ``moving`` maps the pids of tasks to the lists that a change which has not
    ended was to give them.
    """

    saved: SavedLayout
    boot: str
    tasks: list[Task] = []
    moving: dict[str, tuple[str, ...]] = {}


class ConfDir:
    """The directory that ``--conf-dir`` names. Methods raise StateError; callers that change anything hold ``cmk.isolate.local.Lock``."""

    def __init__(self, path: Path, procfs: Procfs) -> None:
        self.path = path
        self._procfs = procfs
        self._file = path / local.STATE

    def saved(self) -> SavedLayout | None:
        """The layout, or None before ``cmk init``."""
        content = self._read()
        return content.saved if content else None

    def ledger(self, saved: SavedLayout) -> tuple[Ledger, list[Task]]:
        """A ledger of the running tasks on a layout, and the tasks that have ended or whose lists the layout lacks."""
        content = self._read()
        ledger = Ledger(saved.layout, require_grant=False)
        ended = []
        for task in content.tasks if content else []:
            runs = content is not None and content.boot == self._procfs.boot_id() and self._procfs.is_alive(task.process)
            if not runs or not ledger.restore(task):
                ended.append(task)
        return ledger, ended

    def save(self, saved: SavedLayout, ledger: Ledger, moving: dict[str, tuple[str, ...]] | None = None) -> None:
        """Write layout and tasks, durably."""
        content = PoolsFile(saved, self._procfs.boot_id(), list(ledger.tasks.values()), moving or {})
        state.replace(self._file, msgspec.json.encode(content), durable=True, mode=0o644)

    def create(self, saved: SavedLayout) -> None:
        """Write a layout without tasks."""
        self.save(saved, Ledger(saved.layout))

    def take_over(self, old: TakenOver, saved: SavedLayout) -> tuple[Ledger, list[str], Path | None]:
        """Write the layout of an older CMK and its running tasks.

        Returns the ledger, why each dropped task was dropped, and the path to which an old tree was renamed, if there was one.
        """
        tasks, dropped = tree.living_tasks(old, self._procfs)
        ledger = Ledger(saved.layout, require_grant=False)
        for task in tasks:
            if not ledger.restore(task):
                dropped.append(f"process {task.process.pid} of pool {task.pool}: its list has another owner")
        self.save(saved, ledger)
        try:
            return ledger, dropped, tree.set_aside(self.path) if tree.exists(self.path) else None
        except OSError as error:
            raise state.StateError(f"cannot set {self.path / tree.POOLS} aside: {error.strerror}") from error

    def recover(self, saved: SavedLayout) -> Ledger:
        """Undo an interrupted change: every task moves back to the lists it has in the file. Returns the ledger of running tasks."""
        content = self._read()
        change = JournaledChange(self.path / JOURNAL, self._save_change, self._procfs)
        if not change.undo_interrupted() and content and content.moving:
            self.save(saved, self.ledger(saved)[0])
        ledger = self.ledger(saved)[0]
        Notifier([self.path], self._procfs).write_all(ledger)
        return ledger

    def move(self, ledger: Ledger, now: SavedLayout, saved: SavedLayout) -> Plan:
        """Move the tasks of a ledger from the layout ``now`` to the layout ``saved``; returns the plan of the moves.

        Raises Refused, NoRoomError or ChangeError, with everything as it was. If this process is killed meanwhile, the old and the new
        lists of every moving task stay taken until ``recover``.
        """
        moves = plan(now.layout, saved.layout, ledger.tasks.values())
        if moves.refusals:
            raise Refused("; ".join(refusal.text for refusal in moves.refusals), final=True)
        change = JournaledChange(self.path / JOURNAL, self._save_change, self._procfs)
        started = change.start(now, saved, moves)
        self.save(now, ledger, {str(move.task.process.pid): move.lists for move in moves.moves})
        try:
            change.finish(started)
        except ChangeError as error:
            raise ChangeError(f"{error}; nothing was changed") from error
        notifier, moved = Notifier([self.path], self._procfs), self.ledger(saved)[0]
        notifier.write_all(moved)
        for move in moves.moves:
            notifier.signal_task(move.after)
        return moves

    def remove(self) -> None:
        """Remove the files of direct mode, and the directory if nothing else is in it."""
        Notifier([self.path], self._procfs).remove_all()
        for name in (local.STATE, JOURNAL, f"{JOURNAL}.old", local.LOCK):
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _read(self) -> PoolsFile | None:
        return state.read(self._file, PoolsFile)

    def _save_change(self, saved: SavedLayout, tasks: list[Task]) -> None:
        """Write what a change has led to; if it leads back to the layout of the file, the tasks of the file are the right ones."""
        content = self._read()
        if content is not None and content.saved == saved:
            self.save(saved, self.ledger(saved)[0])
        else:
            self.save(saved, Ledger(saved.layout, tasks, require_grant=False))
