"""The state files of an agent that the next one reads: layout.json, tasks.json and journal.json. Only this module reads or writes them."""

from __future__ import annotations

from collections.abc import Iterable

from cmk.agent.options import Options
from cmk.host import state
from cmk.host.journal import JournaledChange
from cmk.host.procfs import Procfs
from cmk.model.layout import SavedLayout
from cmk.model.pods import Pod
from cmk.model.tasks import Task, TasksFile


class StateFiles:
    """Every method raises StateError when a file is damaged or cannot be written."""

    def __init__(self, options: Options, procfs: Procfs) -> None:
        self._options = options
        self._procfs = procfs
        self._boot = procfs.boot_id()
        self._layout = state.StateFile(options.layout_file, SavedLayout, durable=True)
        self._tasks = state.StateFile(options.tasks_file, TasksFile, durable=False)

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
        self._tasks.write(TasksFile(self._boot, list(tasks), [pod for pod in pods if pod.grants]))

    def change(self) -> JournaledChange:
        """Changes of this node's pools: they keep a journal, and end by writing layout and tasks."""
        return JournaledChange(self._options.journal_file, self._write_both, self._procfs)

    def _write_both(self, saved: SavedLayout, tasks: list[Task]) -> None:
        """Layout first, for an agent that is killed in between reads the tasks on it."""
        pods = self.read_tasks().pods
        if self.read_layout() != saved:  # to undo a change needs no room on a disk that is full
            self.write_layout(saved)
        self.write_tasks(tasks, pods)
