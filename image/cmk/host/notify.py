"""Tells workloads that asked for it where their CPUs are now: a small file each in the directory that their launcher came from, a signal.

A file holds the current lists and a generation that grows with each change; it is replaced whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

import msgspec

from cmk.host import state
from cmk.host.procfs import Procfs
from cmk.model.choice import comma_list
from cmk.model.ledger import Ledger
from cmk.model.onmove import How
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)

DIRECTORY = "state"
_NAME = re.compile(r"[0-9]+-[0-9]+\.json")


class Notice(msgspec.Struct, frozen=True):
    """What a workload reads: its lists as ``CMK_CPUS_ASSIGNED`` has them, all their CPUs, and how often that has changed, plus one."""

    generation: int
    cpus: str
    lists: list[str]


class Notices:
    """``directories`` are those that pods mount."""

    def __init__(self, directories: Iterable[Path], procfs: Procfs) -> None:
        self._directories = [directory / DIRECTORY for directory in directories]
        self._procfs = procfs

    def put(self, ledger: Ledger, task: Task) -> None:
        """Write a task's file, if it wants one. Raises StateError."""
        if task.on_move.how is not How.NOTIFY:
            return
        notice = Notice(task.generation, comma_list(ledger.cpus_of(task)), list(task.lists))
        for directory in self._directories:
            try:
                if directory.is_symlink():
                    directory.unlink()
                directory.mkdir(mode=0o755, exist_ok=True)
            except OSError as error:
                raise state.StateError(f"cannot make {directory}: {error.strerror}") from error
            state.write(directory / name_of(task.process), notice, durable=False, mode=0o644)

    def tell(self, task: Task) -> None:
        """Send a task's first process the signal it asked for."""
        if not task.on_move.signal:
            return
        try:
            pidfd = os.pidfd_open(task.process.pid)
        except ProcessLookupError:
            return
        try:
            if self._procfs.is_alive(task.process):
                signal.pidfd_send_signal(pidfd, task.on_move.signal)
        except OSError as error:
            log.error("process %d is not told that its CPUs have changed: %s", task.process.pid, error.strerror)
        finally:
            os.close(pidfd)

    def drop(self, process: Process) -> None:
        """Remove a task's file; without one there is nothing to do."""
        for directory in self._directories:
            _remove(directory / name_of(process))

    def resume(self, ledger: Ledger) -> None:
        """Files of the tasks there are, and of no others: an agent may have been killed before it wrote them. What cannot be written or
        removed is logged: the tasks are where they are.
        """
        there = {name_of(process) for process in ledger.tasks}
        for path in self._files():
            if path.name not in there:
                _remove(path)
        for task in ledger.tasks.values():
            try:
                self.put(ledger, task)
            except state.StateError as error:
                log.error("%s", error)

    def remove(self) -> None:
        """Take files and directories away."""
        for path in self._files():
            _remove(path)
        for directory in self._directories:
            if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
                directory.rmdir()

    def _files(self) -> list[Path]:
        """Ours alone: a pod that mounts the directory writable may have put others there, or led it elsewhere."""
        real = (directory for directory in self._directories if not directory.is_symlink())
        return [path for directory in real for path in directory.glob("*") if _NAME.fullmatch(path.name)]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("cannot remove %s: %s", path, error.strerror)


def name_of(process: Process) -> str:
    """A file's name; no pid that is used again can take another's."""
    return f"{process.pid}-{process.start}.json"
