"""Who holds what: tasks by process, and what is asked of them on every allocation, counted as tasks come and go instead of anew.

The ledger is the only one that adds and removes tasks. Nothing here knows layouts or rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from cmk.model.cgroup_path import PodContainer
from cmk.model.tasks import Process, Task

_Key = TypeVar("_Key")
# The pool and the names of the lists that a task holds.
Lists = tuple[str, tuple[str, ...]]


class Holdings:
    """Tasks, one for each process. Mappings that are returned are live views: read them, do not keep or change them."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._tasks: dict[Process, Task] = {}
        self._users: defaultdict[str, defaultdict[str, dict[Process, Task]]] = defaultdict(lambda: defaultdict(dict))
        self._numbers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._of_pods: Counter[str] = Counter()
        self._lists_of_pods: Counter[tuple[str, str]] = Counter()
        self._in_containers: defaultdict[PodContainer, Counter[Lists]] = defaultdict(Counter)
        for task in tasks:
            self.add(task)

    @property
    def tasks(self) -> Mapping[Process, Task]:
        """Every task by its process."""
        return self._tasks

    def users(self, pool: str) -> Mapping[str, Mapping[Process, Task]]:
        """Tasks on each list of a pool that has any, by the list's name."""
        return self._users.get(pool, {})

    def numbers(self, pool: str) -> Mapping[str, int]:
        """The number of tasks on each list of a pool that has any, by the list's name."""
        return self._numbers.get(pool, {})

    def tasks_of(self, pod: str) -> int:
        """The number of tasks of a pod, or of all processes outside pods ("")."""
        return self._of_pods[pod]

    def lists_of(self, pod: str, pool: str) -> int:
        """The number of lists of a pool that the tasks of a pod hold."""
        return self._lists_of_pods[pod, pool]

    @property
    def containers(self) -> Mapping[PodContainer, Mapping[Lists, int]]:
        """What ``held_in`` tells of each container with tasks."""
        return self._in_containers

    def held_in(self, container: PodContainer) -> Mapping[Lists, int]:
        """What the tasks of a container hold, each with the number of tasks that hold just this."""
        return self._in_containers.get(container, {})

    def add(self, task: Task) -> None:
        """Record a task, in place of the one that its process had."""
        if task.process in self._tasks:
            self._count(self._tasks[task.process], -1)
        self._tasks[task.process] = task
        self._count(task, 1)

    def remove(self, process: Process) -> Task | None:
        """Forget the task of a process; returns it, or None when there is none."""
        if task := self._tasks.pop(process, None):
            self._count(task, -1)
        return task

    def _count(self, task: Task, number: int) -> None:
        users = self._users[task.pool]
        for name in task.lists:
            if number > 0:
                users[name][task.process] = task
            else:
                del users[name][task.process]
                if not users[name]:
                    del users[name]
        container = PodContainer(task.pod, task.container)
        _add(self._numbers[task.pool], dict.fromkeys(task.lists, number))
        _add(self._of_pods, {task.pod: number})
        _add(self._lists_of_pods, {(task.pod, task.pool): number * len(task.lists)})
        _add(self._in_containers[container], {(task.pool, task.lists): number})
        if not self._in_containers[container]:
            del self._in_containers[container]


def _add(counter: Counter[_Key], numbers: Mapping[_Key, int]) -> None:
    """Add to a counter, which then has no key whose number is 0."""
    for key, number in numbers.items():
        counter[key] += number
        if not counter[key]:
            del counter[key]
