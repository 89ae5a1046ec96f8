"""The state files of an agent that the next one reads: layout.json, tasks.json and journal.json. Only this module reads or writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import msgspec

from cmk.agent.options import Options
from cmk.host import state
from cmk.host.journal import Journal, JournaledChange
from cmk.host.kin import Kin
from cmk.host.members import Search, search_with_pauses
from cmk.host.pauses import Pausing
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.layout import SavedLayout
from cmk.model.pods import Pod
from cmk.model.tasks import Task, TasksFile

log = logging.getLogger(__name__)


_Encoded = tuple[Task | Pod, msgspec.Raw]


class _EncodedTasks(msgspec.Struct):
    """A TasksFile with parts that are JSON already."""

    boot: str
    tasks: list[msgspec.Raw]
    pods: list[msgspec.Raw]


class StateFiles:
    """Every method raises StateError when a file cannot be written, DamagedError when no generation of it is whole.

    ``layout_fault`` and ``tasks_fault`` say why the last read went back to the generation before; they are empty if it did not.
    """

    def __init__(self, options: Options, procfs: Procfs) -> None:
        self._options = options
        self._procfs = procfs
        self._boot = procfs.boot_id()
        self._layout = state.StateFile(options.layout_file, SavedLayout, durable=True)
        self._tasks: state.StateFile[Any] = state.StateFile(options.tasks_file, TasksFile, durable=False)
        self._doubt = ""
        # By id: what was written last, kept so that nothing else gets its id.
        self._known: dict[int, _Encoded] = {}

    @property
    def layout_fault(self) -> str:
        """Why the layout is that of the generation before."""
        return self._layout.fault

    @property
    def tasks_fault(self) -> str:
        """Why the tasks are those of the generation before, or were when an interrupted change was ended."""
        return self._tasks.fault or self._doubt

    def read_layout(self) -> SavedLayout | None:
        """The layout, and the configuration it was made from; None before the first."""
        return self._layout.read()

    def write_layout(self, saved: SavedLayout) -> None:
        """Replace the layout; it outlives a power cut."""
        self._layout.write(saved)

    def delete_layout(self) -> None:
        """Leave the node without a layout."""
        self._layout.delete()

    def read_tasks(self) -> TasksFile:
        """Tasks, and the pods that had grants. Those of another boot are void, as their processes are gone."""
        content = self._tasks.read()
        return content if content is not None and content.boot == self._boot else TasksFile(self._boot)

    def write_tasks(self, tasks: Iterable[Task], pods: Iterable[Pod]) -> None:
        """Replace the tasks. Of the pods only those with grants are of use to an agent that starts without an API server."""
        encoded: dict[int, _Encoded] = {}
        content = _EncodedTasks(
            self._boot, self._encode([*tasks], encoded), self._encode([pod for pod in pods if pod.grants], encoded)
        )
        self._known = encoded
        self._tasks.write(content)

    def _encode(self, items: list[Any], encoded: dict[int, _Encoded]) -> list[msgspec.Raw]:
        """JSON of tasks or pods, made once for each: the file is written for each allocation, and most in it is as it was.

        All that is done for each of a thousand items is done by the interpreter at once.
        """
        ids = list(map(id, items))
        entries = list(map(self._known.get, ids))
        if None in entries:
            entries = [
                known or (item, msgspec.Raw(msgspec.json.encode(item))) for known, item in zip(entries, items, strict=True)
            ]
        encoded.update(zip(ids, entries, strict=True))  # type: ignore[arg-type]  # none is None any more
        return list(map(itemgetter(1), entries))  # type: ignore[arg-type]

    def change(self) -> JournaledChange:
        """Changes of this node's pools: they keep a journal, and end by writing layout and tasks."""
        return JournaledChange(self._options.journal_file, self._write_both, self._procfs, self._find_family, self._saved_tasks)

    def discard_journal(self) -> None:
        """Forget a change that was interrupted and whose journal is damaged."""
        state.TwinFile(self._options.journal_file, Journal, durable=True).delete()

    def _find_family(self, task: Task, cpus: CpuSet) -> Pausing[Search]:
        kin = Kin(self._procfs, task.origin) if task.origin else None
        return search_with_pauses(self._procfs, PodContainer(), cpus, [], kin)

    def _write_both(self, saved: SavedLayout, tasks: list[Task]) -> None:
        """Layout first, for an agent that is killed in between reads the tasks on it."""
        pods = self._saved_pods()
        if self._layout_differs(saved):  # to undo a change needs no room on a disk that is full
            self.write_layout(saved)
        self.write_tasks(tasks, pods)

    def _saved_tasks(self) -> list[Task]:
        """Tasks as they were written last. That there is a doubt about them stays so when the outcome of a change is written over them."""
        try:
            tasks = self.read_tasks().tasks
        except state.DamagedError as error:
            self._doubt = str(error)
            return []
        self._doubt = self._tasks.fault
        return tasks

    def _saved_pods(self) -> list[Pod]:
        try:
            return self.read_tasks().pods
        except state.DamagedError as error:
            log.error("%s", error)  # the API server says anew which pods have grants
            return []

    def _layout_differs(self, saved: SavedLayout) -> bool:
        try:
            return self.read_layout() != saved or bool(self._layout.fault)
        except state.DamagedError as error:
            log.error("%s", error)  # and is replaced
            return True
