"""Who holds which CPU list, now: allocation and release as pure bookkeeping. The agent keeps one ledger per node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cmk.model import cpuset
from cmk.model.choice import OLD_NAMES, Refused
from cmk.model.cpuset import CpuSet
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.pods import resource_of
from cmk.model.tasks import ANY_SOCKET, Process, Request, Task

_NOTHING: CpuSet = frozenset()


class Ledger:
    """Tasks on the lists of one layout. Invariant: a list of an exclusive pool has at most one task."""

    def __init__(self, layout: Layout, tasks: Iterable[Task] = (), *, require_grant: bool = True) -> None:
        self.layout = layout
        self.require_grant = require_grant
        self._tasks = {task.process: task for task in tasks}
        self._going: frozenset[tuple[str, str]] = frozenset()
        self._coming: Layout | None = None
        self._on_the_way: Mapping[Process, CpuSet] = {}

    @property
    def tasks(self) -> Mapping[Process, Task]:
        """Every task by its process."""
        return self._tasks

    def pool(self, name: str) -> Pool | None:
        """A pool by its name or by kcm's name for it."""
        return self.layout.pools.get(name) or self.layout.pools.get(OLD_NAMES.get(name, name))

    def cpus_of(self, task: Task) -> CpuSet:
        """CPUs that a task holds."""
        return _NOTHING.union(*(item.cpus for item in self._lists(task)))

    @property
    def exclusive(self) -> CpuSet:
        """CPUs of exclusive pools; in a change those before and after, or where that would leave nobody anything those after."""
        now = _exclusive(self.layout)
        if self._coming is None:
            return now
        coming = _exclusive(self._coming)
        everything = _NOTHING.union(*(pool.cpus for made in (self.layout, self._coming) for pool in made.pools.values()))
        return now | coming if everything - now - coming else coming

    def open_to(self, task: Task) -> CpuSet:
        """CPUs that a task may be on: those it holds, and in a change also those it comes by."""
        return self.cpus_of(task) | self._on_the_way.get(task.process, _NOTHING)

    def begin(self, coming: Layout, on_the_way: Mapping[Process, CpuSet]) -> None:
        """A change to another layout begins; ``on_the_way`` are CPUs that tasks come by."""
        self._coming, self._on_the_way = coming, on_the_way

    def end(self, layout: Layout, tasks: Iterable[Task]) -> None:
        """The change is over, and these are layout and tasks now."""
        self.layout, self._coming, self._on_the_way, self._going = layout, None, {}, frozenset()
        self._tasks = {task.process: task for task in tasks}

    def freeze(self, coming: Layout | None) -> None:
        """Hand out lists that another layout lacks last, and only to pods that are counted there; None ends that."""
        self._going = frozenset(
            (name, item.name)
            for name, pool in (self.layout.pools.items() if coming else ())
            for item in pool.lists
            if coming and (name not in coming.pools or item not in coming.pools[name].lists)
        )

    def held(self, pod: str, pool: str) -> int:
        """How many lists of a pool the tasks of a pod hold."""
        return sum(len(task.lists) for task in self._tasks.values() if task.pod == pod and task.pool == pool)

    def users(self, pool: str) -> dict[str, list[Task]]:
        """Tasks on every list of a pool, by list name."""
        found: dict[str, list[Task]] = {item.name: [] for item in self.layout.pools[pool].lists}
        for task in self._tasks.values():
            if task.pool == pool:
                for name in task.lists:
                    found[name].append(task)
        return found

    def allocate(self, request: Request) -> Task:
        """Find lists for a request and book them; raises Refused.

        The same process asking the same again (its reply was lost) gets the same answer; asking for something else replaces what it has.
        """
        request = self._by_its_new_name(request)
        previous = self._tasks.get(request.process)
        if previous and (previous.pool, previous.cores, previous.socket) == (
            request.pool,
            request.cores,
            request.socket,
        ):
            self._tasks[request.process] = msgspec.structs.replace(previous, on_move=request.on_move)
            return self._tasks[request.process]
        self._tasks.pop(request.process, None)
        try:
            lists = self._choose(request)
        except Refused:
            if previous:
                self._tasks[request.process] = previous
            raise
        task = Task(
            process=request.process,
            pool=request.pool,
            lists=tuple(item.name for item in lists),
            pod=request.pod.uid if request.pod else "",
            container=request.container,
            cores=request.cores,
            socket=request.socket,
            on_move=request.on_move,
        )
        self._tasks[request.process] = task
        return task

    def check(self, request: Request) -> None:
        """Raise what ``allocate`` would raise, and book nothing."""
        request = self._by_its_new_name(request)
        previous = self._tasks.pop(request.process, None)
        try:
            self._choose(request)
        finally:
            if previous:
                self._tasks[request.process] = previous

    def restore(self, task: Task) -> bool:
        """Book a task as it was; False when its lists do not exist or another task holds one of them exclusively."""
        pool = self.layout.pools.get(task.pool)
        names = {item.name for item in pool.lists} if pool else set()
        if pool is None or not task.lists or not names.issuperset(task.lists):
            return False
        if pool.exclusive:
            users = self.users(pool.name)
            if any(other.process != task.process for name in task.lists for other in users[name]):
                return False
        self._tasks[task.process] = task
        return True

    def release(self, process: Process) -> Task | None:
        """Forget the task of a process; returns it, or None when there is none."""
        return self._tasks.pop(process, None)

    def environment(self, task: Task) -> dict[str, str]:
        """Variables the workload sees."""
        return {
            "CMK_CPUS_ASSIGNED": ",".join(item.name for item in self._lists(task)),
            "CMK_CPUS_ASSIGNED_MASK": cpuset.mask(self.cpus_of(task)),
            "CMK_CPUS_SHARED": cpuset.comma_list(self.layout.cpus_of("shared")),
            "CMK_CPUS_INFRA": cpuset.comma_list(self.layout.cpus_of("infra")),
        }

    def _lists(self, task: Task) -> list[CpuList]:
        return self.layout.pools[task.pool].named(task.lists)

    def _by_its_new_name(self, request: Request) -> Request:
        if request.pool in self.layout.pools or request.pool not in OLD_NAMES:
            return request
        return msgspec.structs.replace(request, pool=OLD_NAMES[request.pool])

    def _choose(self, request: Request) -> list[CpuList]:
        pool = self.layout.pools.get(request.pool)
        if pool is None:
            there = ", ".join(sorted(self.layout.pools))
            raise Refused(f"Requested pool {request.pool} does not exist; this node has {there}", final=True)
        if request.cores < 1:
            raise Refused(f"Requested numbers of cores must be positive integer, not {request.cores}", final=True)
        lists = self._on_socket(pool, request.socket)
        if not pool.exclusive:
            users = self.users(pool.name)
            return [min(lists, key=lambda item: (len(users[item.name]), min(item.cpus)))]
        self._check_grant(pool, request)
        if request.cores > len(lists):
            raise Refused(
                f"Not enough cpu lists in pool {pool.name}: {request.cores} asked, {len(lists)} exist"
                + ("" if request.socket == ANY_SOCKET else f" on socket {request.socket}"),
                final=True,
            )
        users = self.users(pool.name)
        free = [item for item in lists if not users[item.name] and (pool.name, item.name) not in self._going]
        if request.pod and request.pod.grants.get(resource_of(pool.name)):
            free += [item for item in lists if not users[item.name] and (pool.name, item.name) in self._going]
        if request.cores > len(free):
            raise Refused(
                f"Not enough free cpu lists in pool {pool.name}: {request.cores} asked, {len(free)} of {len(lists)} free",
                final=False,
            )
        return free[: request.cores]

    def _on_socket(self, pool: Pool, socket: int) -> list[CpuList]:
        if not pool.lists:
            raise Refused(f"No cpu lists in pool {pool.name}", final=True)
        if socket == ANY_SOCKET or pool.name == "infra":  # infra never honoured --socket-id
            return list(pool.lists)
        lists = [item for item in pool.lists if item.socket == socket]
        if not lists:
            there = ", ".join(str(number) for number in sorted({item.socket for item in pool.lists}))
            raise Refused(f"No cpu lists in pool {pool.name} on socket {socket}; it has lists on {there}", final=True)
        return lists

    def _check_grant(self, pool: Pool, request: Request) -> None:
        if not self.require_grant:
            return
        resource = resource_of(pool.name)
        if request.pod is None:
            raise Refused(f"pool {pool.name} is for pods that request {resource}; this process is in no pod", final=True)
        granted = request.pod.grants.get(resource, 0)
        if granted == 0:
            raise Refused(f"pod {request.pod} requests no {resource}: add it to a container's resources.limits", final=True)
        if request.cores > granted:
            raise Refused(
                f"{request.cores} cores of pool {pool.name} asked, pod {request.pod} is granted {granted} ({resource})",
                final=True,
            )
        held = self.held(request.pod.uid, pool.name)
        if held + request.cores > granted:
            raise Refused(
                f"{request.cores} cores of pool {pool.name} asked, pod {request.pod} already holds {held} of its {granted} ({resource})",
                final=False,
            )


def _exclusive(layout: Layout) -> CpuSet:
    return _NOTHING.union(*(pool.cpus for pool in layout.pools.values() if pool.exclusive))
