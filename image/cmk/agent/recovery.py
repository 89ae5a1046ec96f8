"""The state that an agent starts from, also when files of the one before it are damaged: then masks of living processes say who owns what.

The generation before of the task file lacks what came last, and the generation before of the layout may have other lists. So after damage,
every process in a pod that is confined to exclusive CPUs counts as an owner of the lists it touches: it is booked, and its cores are not
handed out while it runs. Tasks of shared pools, and tasks outside pods or without affinity, are those of the file, if there is one.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cmk.agent.files import StateFiles
from cmk.host.confined import Confined, confined_processes
from cmk.host.kin import Kin
from cmk.host.members import search_members
from cmk.host.procfs import Procfs
from cmk.host.state import DamagedError, StateError
from cmk.model import cpuset
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, SavedLayout
from cmk.model.tasks import Task, TasksFile

NOTHING: CpuSet = frozenset()


class UnfitError(StateError):
    """Processes run where no task of a layout can be, so that cores would come into two hands; the text says which, and what to do."""


class Recovery:
    """What the files say. ``tasks`` are those of the task file, ``layout`` is None if there is none that is whole.

    ``tasks_doubt`` and ``layout_doubt`` say why they may not be the present ones; they are empty if they are.
    """

    def __init__(self, files: StateFiles, procfs: Procfs) -> None:
        self._files = files
        self._procfs = procfs
        self.tasks = TasksFile("")
        self.tasks_doubt = ""
        self.layout: SavedLayout | None = None
        self.layout_doubt = ""

    def read(self) -> None:
        """Read layout and tasks, whatever state they are in."""
        try:
            self.tasks, self.tasks_doubt = self._files.read_tasks(), self._files.tasks_fault
        except DamagedError as error:
            self.tasks, self.tasks_doubt = TasksFile(""), str(error)
        try:
            self.layout, self.layout_doubt = self._files.read_layout(), self._files.layout_fault
        except DamagedError as error:
            self.layout, self.layout_doubt = None, str(error)

    def discard_journal(self, damage: DamagedError) -> None:
        """Forget an interrupted change, of which no journal tells any more, once no task runs that it may have moved. Raises UnfitError."""
        self.read()
        layout = self.layout.layout if self.layout is not None else None
        pids = {task.process.pid for task in self._living(layout)}
        if layout is not None:
            pids |= {item.process.pid for item in self._confined(layout)}
        if pids:
            raise UnfitError(
                f"{damage}; it was of a change of pools that was interrupted, and these processes may be on CPUs of either layout: "
                f"{_listed(pids)}; end them (their pods), and the agent goes on"
            )
        self._files.discard_journal()

    def tasks_on(self, layout: Layout) -> TasksFile:
        """The tasks on a layout. Raises UnfitError."""
        if not self.tasks_doubt and not self.layout_doubt:
            return self.tasks
        found = self._confined(layout)
        if self.layout_doubt:
            _require_fit(layout, self._living(layout), found)
        return TasksFile(self.tasks.boot, rebuilt(layout, self.tasks.tasks, found), self.tasks.pods)

    def settle(self, saved: SavedLayout) -> list[str]:
        """End the doubts, now that the node is served; returns them. Raises StateError when the layout cannot be written."""
        doubts = [doubt for doubt in (self.tasks_doubt, self.layout_doubt) if doubt]
        is_old = bool(self.layout_doubt)
        self.tasks_doubt = self.layout_doubt = ""
        if is_old:
            self._files.write_layout(saved)
        return doubts

    def _living(self, layout: Layout | None) -> list[Task]:
        """Tasks of the file whose first process runs, or, outside pods, has left others on cores."""
        return [task for task in self.tasks.tasks if self._procfs.is_alive(task.process) or self._has_left_some(task, layout)]

    def _has_left_some(self, task: Task, layout: Layout | None) -> bool:
        if not task.origin or layout is None:
            return False
        found = search_members(self._procfs, PodContainer(), layout.exclusive, [], Kin(self._procfs, task.origin))
        return bool(found.members) or not found.is_certain

    def _confined(self, layout: Layout) -> list[Confined]:
        others = NOTHING.union(*(pool.cpus for pool in layout.pools.values())) - layout.exclusive
        return confined_processes(self._procfs, layout.exclusive, others)


def rebuilt(layout: Layout, known: Iterable[Task], found: Iterable[Confined]) -> list[Task]:
    """The tasks of a layout: ``known`` ones, corrected by what processes are confined to, and one for each process that none explains.

    An exclusive list has one task in the result. Raises UnfitError when processes of several containers are confined to one list.
    """
    confined = {item.process: item for item in found if item.inside}
    owners = _containers(layout, confined.values())
    booked: dict[str, Task] = {}  # by exclusive list
    tasks: list[Task] = []

    def book(task: Task, pool: str, lists: Iterable[str]) -> None:
        if names := tuple(name for name in lists if name not in booked):
            tasks.append(_with(task, pool, names))
            booked.update(dict.fromkeys(names, tasks[-1]))

    def held(task: Task) -> list[str]:
        container = (task.pod, task.container)
        names = {item.name for item in layout.pools[task.pool].lists}
        return [name for name in task.lists if name in names and owners.get(name, container) == container]

    rest = []
    for task in known:
        pool = layout.pools.get(task.pool)
        if task.process in confined:
            here, lists = _touched(layout, confined[task.process])
            if task.pool == here and set(lists) < set(task.lists):  # it has narrowed itself
                lists = held(task)
            book(task, here, lists)
        elif pool is not None and pool.exclusive:
            rest.append(task)
        else:
            tasks.append(task)
    for task in rest:  # no mask says that they are owners, but none of another container says that they are not
        book(task, task.pool, held(task))
    for item in confined.values():
        pool_name, names = _touched(layout, item)
        task = Task(item.process, pool_name, (), item.container.pod, item.container.container, cores=len(names))
        book(task, pool_name, names)
    return tasks


def _with(task: Task, pool: str, lists: tuple[str, ...]) -> Task:
    """The task on these lists: as it was, if it has been known to be there."""
    if (task.pool, task.lists) == (pool, lists):
        return task
    return msgspec.structs.replace(task, pool=pool, lists=lists, cores=len(lists))


def _touched(layout: Layout, item: Confined) -> tuple[str, list[str]]:
    """The pool and lists on whose CPUs a process is; raises UnfitError when they are of several pools."""
    lists = {
        pool.name: [entry.name for entry in pool.lists if entry.cpus & item.inside]
        for pool in layout.pools.values()
        if pool.exclusive and pool.cpus & item.inside
    }
    if len(lists) != 1:
        raise UnfitError(_text(item, f"which are of pools {', '.join(sorted(lists))}"))
    return next(iter(lists.items()))


def _containers(layout: Layout, found: Iterable[Confined]) -> dict[str, tuple[str, str]]:
    """The container whose processes are on each list. Raises UnfitError when there are several."""
    owners: dict[str, tuple[str, str]] = {}
    for item in found:
        container = (item.container.pod, item.container.container)
        for name in _touched(layout, item)[1]:
            if owners.setdefault(name, container) != container:
                raise UnfitError(_text(item, f"and a process of pod {owners[name][0]} is on CPUs {name} too"))
    return owners


def _require_fit(layout: Layout, tasks: Iterable[Task], found: Iterable[Confined]) -> None:
    """Raises UnfitError unless each living task and each process has whole lists of this layout."""
    for task in tasks:
        pool = layout.pools.get(task.pool)
        if pool is None or not {item.name for item in pool.lists}.issuperset(task.lists):
            raise UnfitError(
                f"process {task.process.pid}{f' of pod {task.pod}' if task.pod else ''} holds {' and '.join(task.lists)} of pool "
                f"{task.pool}, which the layout lacks; end it (its pod), and the agent goes on"
            )
    for item in found:
        if item.astride:
            raise UnfitError(
                _text(item, f"and on {cpuset.kernel_list(item.astride)}, which only a task of another layout would be")
            )


def _text(item: Confined, what: str) -> str:
    cpus = cpuset.kernel_list(item.inside) or "none of its own"
    process = f"process {item.process.pid} of pod {item.container.pod}"
    return f"{process} is on exclusive CPUs {cpus}, {what}; end it (its pod), and the agent goes on"


def _listed(pids: Iterable[int]) -> str:
    first = sorted(pids)
    return ", ".join(map(str, first[:10])) + (f" and {len(first) - 10} more" if len(first) > 10 else "")
