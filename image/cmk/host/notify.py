"""Notices of CPU changes for workloads with on-move ``notify``: one small file per task beside the task's launcher, and a signal.

A file holds the current lists and a generation that grows with each change; it is replaced as a whole, so that a reader never sees half of
one.
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
    """The content of a task's file: its lists as in ``CMK_CPUS_ASSIGNED``, all their CPUs, and the number of changes plus one."""

    generation: int
    cpus: str
    lists: list[str]


class Notifier:
    """Writes the tasks' files below each of ``directories``, which pods mount, and signals tasks."""

    def __init__(self, directories: Iterable[Path], procfs: Procfs) -> None:
        self._directories = [directory / DIRECTORY for directory in directories]
        self._procfs = procfs

    def write_notice(self, ledger: Ledger, task: Task) -> None:
        """Write the file of a task with on-move ``notify``; other tasks have none. Raises StateError."""
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
            state.replace(directory / name_of(task.process), msgspec.json.encode(notice), durable=False, mode=0o644)

    def signal_task(self, task: Task) -> None:
        """Send the signal that a task asked for to its first process, if it still runs."""
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
            log.error("cannot signal process %d that its CPUs have changed: %s", task.process.pid, error.strerror)
        finally:
            os.close(pidfd)

    def remove_notice(self, process: Process) -> None:
        """Remove a task's file, if there is one."""
        for directory in self._directories:
            _remove(directory / name_of(process))

    def write_all(self, ledger: Ledger) -> None:
        """Write the files of all tasks and remove all others: an agent may have been killed between a change and its notices.

        A file that cannot be written or removed is logged: the tasks have moved and stay where they are.
        """
        names = {name_of(process) for process in ledger.tasks}
        for path in self._files():
            if path.name not in names:
                _remove(path)
        for task in ledger.tasks.values():
            try:
                self.write_notice(ledger, task)
            except state.StateError as error:
                log.error("%s", error)

    def remove_all(self) -> None:
        """Remove all files, and the directories unless something else is in them."""
        for path in self._files():
            _remove(path)
        for directory in self._directories:
            if directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir()):
                directory.rmdir()

    def _files(self) -> list[Path]:
        """Files named by cmk, in real directories: a pod that mounts one writable may have added files or replaced it by a symlink."""
        real = (directory for directory in self._directories if not directory.is_symlink())
        return [path for directory in real for path in directory.glob("*") if _NAME.fullmatch(path.name)]


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("cannot remove %s: %s", path, error.strerror)


def name_of(process: Process) -> str:
    """The name of a task's file; the start time tells apart processes that had the same pid."""
    return f"{process.pid}-{process.start}.json"
