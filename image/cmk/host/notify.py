"""Notices of CPU changes for workloads with on-move ``notify``: one small file per task beside the task's launcher, and a signal.

A file holds the current lists and a generation that grows with each change; it is replaced as a whole, so that a reader never sees half of
one.
"""

from __future__ import annotations

import logging
import os
import re
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from cmk.host import foreign, state
from cmk.host.foreign import ForeignDirectory, Troubles
from cmk.host.peer import open_process
from cmk.host.procfs import Procfs
from cmk.model.choice import comma_list
from cmk.model.ledger import Ledger
from cmk.model.onmove import How
from cmk.model.tasks import Process, Task

log = logging.getLogger(__name__)

DIRECTORY = "state"
# The second is what an earlier version, or `cmk isolate` in direct mode, has left half done when it was killed.
_NAME = re.compile(r"[0-9]+-[0-9]+\.json|\.[0-9]+-[0-9]+\.json\.new")


class Notice(msgspec.Struct, frozen=True):
    """The content of a task's file: its lists as in ``CMK_CPUS_ASSIGNED``, all their CPUs, and the number of changes plus one."""

    generation: int
    cpus: str
    lists: list[str]


class Notifier:
    """Writes the tasks' files below each of ``directories``, which pods mount, and signals tasks."""

    def __init__(self, directories: Iterable[Path], procfs: Procfs) -> None:
        self._directories = list(directories)
        self._procfs = procfs
        self.troubles = Troubles()
        # Files that there are; None while nobody has looked. Most tasks have none, and a thousand may end at once.
        self._names: set[str] | None = None

    def write_notice(self, ledger: Ledger, task: Task) -> None:
        """Write the file of a task with on-move ``notify``; other tasks have none. Raises StateError if no directory takes it."""
        if task.on_move.how is not How.NOTIFY:
            return
        notice = Notice(task.generation, comma_list(ledger.cpus_of(task)), list(task.lists))
        content = msgspec.json.encode(notice)
        failures = []
        if self._names is not None:
            self._names.add(name_of(task.process))
        for directory in self._directories:
            place = directory / DIRECTORY
            try:
                with foreign.opened(directory) as there:
                    there.make_below(DIRECTORY)
                    with there.below(DIRECTORY) as notices:
                        notices.put(name_of(task.process), content, 0o644)
            except OSError as error:
                failures.append(f"cannot write {place / name_of(task.process)}: {error.strerror}")
                self.troubles.note(place, f"cannot write notices to {place}: {error.strerror}")
            else:
                self.troubles.note(place, "")
        if failures and len(failures) == len(self._directories):
            raise state.StateError("; ".join(failures))

    def signal_task(self, task: Task) -> None:
        """Send the signal that a task asked for to its first process, if it still runs."""
        if not task.on_move.signal:
            return
        try:
            peer = open_process(self._procfs, task.process)
            try:
                signal.pidfd_send_signal(peer.pidfd, task.on_move.signal)
            finally:
                os.close(peer.pidfd)
        except ProcessLookupError:
            return
        except OSError as error:
            log.error("cannot signal process %d that its CPUs have changed: %s", task.process.pid, error.strerror)

    def remove_notice(self, process: Process) -> None:
        """Remove a task's file, if there is one."""
        name = name_of(process)
        if self._names is None or name in self._names:
            self._in_each(lambda _, notices: notices.remove(name))
            if self._names is not None:
                self._names.discard(name)

    def write_all(self, ledger: Ledger) -> None:
        """Write the files of all tasks and remove all others: an agent may have been killed between a change and its notices.

        A file that cannot be written or removed is logged: the tasks have moved and stay where they are.
        """
        self._names = {name_of(process) for process, task in ledger.tasks.items() if task.on_move.how is How.NOTIFY}
        self._remove_others(self._names)
        for task in ledger.tasks.values():
            try:
                self.write_notice(ledger, task)
            except state.StateError as error:
                log.error("%s", error)

    def remove_all(self) -> None:
        """Remove all files, and the directories unless something else is in them."""
        self._remove_others(set())
        for directory in self._directories:
            with suppress(OSError), foreign.opened(directory) as there:
                there.remove_below(DIRECTORY)

    def _remove_others(self, names: set[str]) -> None:
        """Remove files named by cmk except these: a pod that mounts a directory writable may have added files of its own."""

        def remove_others(directory: Path, notices: ForeignDirectory) -> None:
            notices.remove_leftovers()
            failures = []
            for name in notices.names():
                if _NAME.fullmatch(name) and name not in names:
                    try:
                        notices.remove(name)
                    except OSError as error:
                        failures.append(f"{name}: {error.strerror}")
            if failures:  # one line, for there may be thousands
                log.error("cannot remove %d of the files in %s, the first %s", len(failures), directory, failures[0])

        self._in_each(remove_others)

    def _in_each(self, work: Callable[[Path, ForeignDirectory], None]) -> None:
        """Do something in each directory with notices that there is, and not in what a pod has put in the place of one."""
        for directory in self._directories:
            place = directory / DIRECTORY
            try:
                with foreign.opened(directory) as there, there.below(DIRECTORY) as notices:
                    work(place, notices)
            except FileNotFoundError:
                continue  # none has been written
            except OSError as error:
                self.troubles.note(place, f"cannot use {place}: {error.strerror}")


def name_of(process: Process) -> str:
    """The name of a task's file; the start time tells apart processes that had the same pid."""
    return f"{process.pid}-{process.start}.json"
