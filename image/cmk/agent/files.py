"""The agent's two files, layout and tasks, as a change of pools writes them: the layout first, for tasks are read on it."""

from __future__ import annotations

from cmk.agent.options import Options
from cmk.host import state
from cmk.host.journal import JournaledChange
from cmk.host.procfs import Procfs
from cmk.model.layout import SavedLayout
from cmk.model.tasks import Task, TasksFile


def change_of(options: Options, procfs: Procfs) -> JournaledChange:
    """Changes of this node's pools."""

    def book(saved: SavedLayout, tasks: list[Task]) -> None:
        found, boot = state.read(options.tasks_file, TasksFile), procfs.boot_id()
        pods = found.pods if found is not None and found.boot == boot else []
        if state.read(options.layout_file, SavedLayout) != saved:  # to go back needs no room on a disk that is full
            state.write(options.layout_file, saved, durable=True)
        state.write(options.tasks_file, TasksFile(boot, tasks, pods), durable=False)

    return JournaledChange(options.journal_file, book, procfs)
