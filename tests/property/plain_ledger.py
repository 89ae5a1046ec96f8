"""The ledger without an index: the rules of allocation over a plain list of tasks. What the real one answers is compared with this."""

from __future__ import annotations

from cmk.model import choice
from cmk.model.choice import Refused
from cmk.model.layout import Layout
from cmk.model.pods import resource_of
from cmk.model.tasks import Process, Request, Task


class PlainLedger:
    """Tasks on the lists of one layout."""

    def __init__(self, layout: Layout, tasks_per_pod: int) -> None:
        self.layout = layout
        self.tasks: dict[Process, Task] = {}
        self._tasks_per_pod = tasks_per_pod
        self._coming: Layout | None = None

    def freeze(self, coming: Layout | None) -> None:
        self._coming = coming

    def allocate(self, request: Request) -> tuple[str, ...]:
        """Names of the lists that a request gets; raises Refused with the text of the real one."""
        pool = self.layout.pools[choice.find_pool(self.layout.pools, request.pool)]
        previous = self.tasks.get(request.process)
        if previous and (previous.pool, previous.cores, previous.socket) == (pool.name, request.cores, request.socket):
            return previous.lists
        uid = request.pod.uid if request.pod else ""
        if previous is None and sum(task.pod == uid for task in self.tasks.values()) >= self._tasks_per_pod:
            raise Refused("limit", final=False)
        others = [task for task in self.tasks.values() if task.process != request.process and task.pool == pool.name]
        lists = {item.name: item.socket for item in pool.lists}
        if pool.exclusive:
            choice.on_socket(pool.name, lists, request.socket)
            granted = request.pod.granted(resource_of(pool.name), len(lists)) if request.pod else 0
            held = sum(len(task.lists) for task in others if task.pod == uid)
            if held + request.cores > granted:
                raise Refused("grant", final=request.cores > granted)
        users = {name: sum(name in task.lists for task in others) for name in lists}
        going = [item.name for item in pool.lists if self._coming and item not in self._coming.pools[pool.name].lists]
        is_counted = request.pod is not None and request.pod.granted(resource_of(pool.name), len(lists))
        available = [name for name in lists if name not in going] + (going if is_counted else [])
        names = choice.choose(pool.name, pool.exclusive, lists, users, request.cores, request.socket, available)
        self.tasks[request.process] = Task(request.process, pool.name, tuple(names), uid, "", request.cores, request.socket)
        return tuple(names)

    def users(self, pool: str) -> dict[str, set[Process]]:
        tasks = [task for task in self.tasks.values() if task.pool == pool]
        return {item.name: {task.process for task in tasks if item.name in task.lists} for item in self.layout.pools[pool].lists}

    def held(self, pod: str, pool: str) -> int:
        return sum(len(task.lists) for task in self.tasks.values() if (task.pod, task.pool) == (pod, pool))
