"""Direct mode's state: layout and tasks of one host in one directory, read and changed under its lock. ``cmk.direct`` allocates in it."""

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
from cmk.model.ledger import Ledger, Refused, Request, Task, TasksFile


class ConfDir:
    """One directory. Methods raise StateError; who changes anything holds ``cmk.direct.Lock``."""

    def __init__(self, path: Path, procfs: Procfs) -> None:
        self.path = path
        self._procfs = procfs
        self._layout_file = path / direct.LAYOUT
        self._tasks_file = path / direct.TASKS

    def saved(self) -> SavedLayout | None:
        """The layout, or None before ``cmk init``."""
        return state.read(self._layout_file, SavedLayout)

    def ledger(self, saved: SavedLayout) -> tuple[Ledger, list[Task]]:
        """Living tasks on the layout, and those that are dead."""
        found = state.read(self._tasks_file, TasksFile)
        ledger = Ledger(saved.layout, require_grant=False)
        dead = []
        for task in found.tasks if found else []:
            alive = found is not None and found.boot == self._procfs.boot_id() and self._procfs.is_alive(task.process)
            if not alive or not ledger.restore(task):
                dead.append(task)
        return ledger, dead

    def keep(self, ledger: Ledger) -> None:
        """Write the tasks."""
        state.write(self._tasks_file, TasksFile(self._procfs.boot_id(), list(ledger.tasks.values())), durable=False, mode=0o644)

    def start(self, saved: SavedLayout) -> None:
        """Write a layout."""
        state.write(self._layout_file, saved, durable=True, mode=0o644)

    def take_over(self, found: TakenOver, saved: SavedLayout) -> tuple[Ledger, list[str], Path | None]:
        """Make an old layout and its living tasks ours; returns ledger, dropped tasks, and where an old tree is set aside now.

        Tasks first, then the layout, then the tree: killed in between, the next one starts over.
        """
        tasks, dropped = oldtree.living_tasks(found, self._procfs)
        ledger = Ledger(saved.layout, require_grant=False)
        for task in tasks:
            if not ledger.restore(task):
                dropped.append(f"process {task.process.pid} of pool {task.pool}: its list has another owner")
        self.keep(ledger)
        self.start(saved)
        try:
            return ledger, dropped, oldtree.set_aside(self.path) if oldtree.exists(self.path) else None
        except OSError as error:
            raise state.StateError(f"cannot set {self.path / oldtree.POOLS} aside: {error.strerror}") from error

    def move(self, ledger: Ledger, saved: SavedLayout) -> list[tuple[Task, Task]]:
        """Put the tasks of a ledger onto another layout: each keeps its lists when they are still there, else gets others of its socket, or
        any; every thread is pinned and read back. Returns (before, after) of those that moved; raises Refused or AffinityError with
        everything as it was.
        """
        planned = rehouse(ledger, saved.layout)
        moved: list[tuple[Task, Task]] = []
        try:
            for before, after in planned:
                old, new = ledger.cpus_of(before), _cpus(saved.layout, after)
                mask = frozenset(os.sched_getaffinity(before.process.pid))
                moved.append((before, after))
                if old != new and mask <= old:  # --no-affinity: it places itself
                    affinity.pin(self._procfs, before.process.pid, new)
        except (affinity.AffinityError, ProcessLookupError, PermissionError) as error:
            for before, _ in moved:
                self._put_back(before, ledger.cpus_of(before))
            raise affinity.AffinityError(
                f"process {moved[-1][0].process.pid} cannot be moved: {error}; nothing was changed"
            ) from error
        fresh = Ledger(saved.layout, (after for _, after in planned), require_grant=False)
        self.start(saved)
        self.keep(fresh)
        return [(before, after) for before, after in moved if before != after]

    def remove(self) -> None:
        """Take everything of ours away; the directory itself only when nothing else is in it."""
        for name in (direct.LAYOUT, direct.TASKS, direct.LOCK):
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


def _cpus(layout: Layout, task: Task) -> cpuset.CpuSet:
    return Ledger(layout).cpus_of(task)
