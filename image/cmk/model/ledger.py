"""The ledger: which task holds which CPU lists of one layout. Allocation and release are pure bookkeeping.

The agent keeps one ledger per node. Its allocator allocates and releases; a change of pools freezes, begins and ends (``service.py``,
``change_pools.py``). Direct mode makes a ledger of its file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cmk.model import choice
from cmk.model.cgroup_path import PodContainer
from cmk.model.choice import OLD_NAMES, Refused
from cmk.model.cpuset import CpuSet
from cmk.model.holdings import Holdings
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.pods import MOST_CORES, resource_of
from cmk.model.tasks import Process, Request, Task

_NOTHING: CpuSet = frozenset()


class _Change(msgspec.Struct, frozen=True):
    """A change to another layout: ``containers`` are those of the tasks that move, ``cpus`` all that these come from, go to or pass."""

    coming: Layout
    destinations: Mapping[Process, CpuSet]
    containers: frozenset[PodContainer]
    cpus: CpuSet


class Ledger:
    """Tasks on the lists of one layout. Invariant: a list of an exclusive pool has at most one task.

    ``version`` grows with every change. A pod gets at most ``tasks_per_pod`` tasks, of all pools together, as do all processes outside
    pods; None: any number.
    """

    def __init__(
        self, layout: Layout, tasks: Iterable[Task] = (), *, require_grant: bool = True, tasks_per_pod: int | None = None
    ) -> None:
        self.layout = layout
        self.require_grant = require_grant
        self.version = 0
        self._tasks_per_pod = tasks_per_pod
        self._holdings = Holdings(tasks)
        self._going: frozenset[tuple[str, str]] = frozenset()
        self._coming: Layout | None = None
        self._destinations: Mapping[Process, CpuSet] = {}
        self._announced: _Change | None = None
        self._given_up: Mapping[Process, CpuSet] = {}

    @property
    def tasks(self) -> Mapping[Process, Task]:
        """Every task by its process."""
        return self._holdings.tasks

    def pool(self, name: str) -> Pool | None:
        """A pool by its name or by kcm's name for it."""
        return self.layout.pools.get(name) or self.layout.pools.get(OLD_NAMES.get(name, name))

    def cpus_of(self, task: Task) -> CpuSet:
        """CPUs that a task holds."""
        return self._cpus_of_lists(task.pool, task.lists)

    def beside(self, task: Task) -> list[CpuSet]:
        """CPUs that other tasks in a task's container hold, those of each list or group of lists once."""
        held = self._holdings.held_in(PodContainer(task.pod, task.container))
        own = self.tasks.get(task.process)
        others = (lists for lists, number in held.items() if number > (own is not None and lists == (own.pool, own.lists)))
        return [self._cpus_of_lists(*lists) for lists in others]

    @property
    def exclusive(self) -> CpuSet:
        """CPUs of exclusive pools. While pools change: those of both layouts, or of the new one where both would leave no CPU over."""
        now = self.layout.exclusive
        if self._coming is None:
            return now
        coming = self._coming.exclusive
        every_cpu = _NOTHING.union(*(pool.cpus for layout in (self.layout, self._coming) for pool in layout.pools.values()))
        return now | coming if every_cpu - now - coming else coming

    def open_to(self, task: Task) -> CpuSet:
        """CPUs that a task may run on: those it holds, those it is giving up, and while pools change those it moves to or passes."""
        more = (each.get(task.process, _NOTHING) for each in (self._destinations, self._given_up))
        return self.cpus_of(task).union(*more)

    def open_in_containers(self) -> dict[PodContainer, CpuSet]:
        """CPUs that tasks may run on, by container."""
        cpus = {
            container: _NOTHING.union(*(self._cpus_of_lists(*lists) for lists in held))
            for container, held in self._holdings.containers.items()
        }
        for process, more in (*self._destinations.items(), *self._given_up.items()):
            if task := self.tasks.get(process):
                container = PodContainer(task.pod, task.container)
                cpus[container] |= more
        return cpus

    def keep_open(self, process: Process, cpus: CpuSet) -> None:
        """Leave CPUs open to a process that is giving them up and still runs there, until this is called with none."""
        self._given_up = {process: cpus} if cpus else {}

    def announce(self, coming: Layout, destinations: Mapping[Process, CpuSet]) -> None:
        """Announce a change to another layout; ``destinations`` are CPUs that tasks move to or pass on the way.

        Until it ends, only lists are handed out that both layouts have and that nobody moves from or to; none in containers of tasks that
        move, whose processes move with them; and a process keeps its task.
        """
        moving = [task for process in destinations if (task := self.tasks.get(process))]
        self._announced = _Change(
            coming,
            destinations,
            frozenset(PodContainer(task.pod, task.container) for task in moving),
            _NOTHING.union(*map(self.cpus_of, moving), *destinations.values()),
        )

    def begin(self) -> None:
        """Begin the change: its tasks may run where they go as well, and nobody else on what is exclusive in either layout."""
        if self._announced is None:
            raise RuntimeError("no change was announced")
        self._coming, self._destinations = self._announced.coming, self._announced.destinations

    @property
    def is_changing(self) -> bool:
        """Whether a change has been announced that has not ended."""
        return self._announced is not None

    def is_beside_moving(self, task: Task) -> bool:
        """Whether a change that has been announced moves the task, or another in its container: until the change ends nobody knows on which
        CPUs the processes of either are.
        """
        return self._announced is not None and PodContainer(task.pod, task.container) in self._announced.containers

    def end(self, layout: Layout, tasks: Iterable[Task]) -> None:
        """End a change, frozen lists included: from now on the ledger has this layout and these tasks."""
        self.layout, self._coming, self._destinations, self._going = layout, None, {}, frozenset()
        self._announced = None
        self._holdings = Holdings(tasks)
        self.version += 1

    def freeze(self, coming: Layout | None) -> None:
        """Hand out lists that a coming layout lacks last, and only to pods that request the pool; None ends that."""
        self._going = frozenset(
            (name, item.name)
            for name, pool in (self.layout.pools.items() if coming else ())
            for item in pool.lists
            if coming and (name not in coming.pools or item not in coming.pools[name].lists)
        )

    def held(self, pod: str, pool: str) -> int:
        """The number of lists of a pool that the tasks of a pod hold."""
        return self._holdings.lists_of(pod, pool)

    def users(self, pool: str) -> dict[str, list[Task]]:
        """Tasks on every list of a pool, by list name."""
        users = self._holdings.users(pool)
        return {name: list(users[name].values()) if name in users else [] for name in self.layout.pools[pool].sockets}

    def allocate(self, request: Request) -> Task:
        """Choose lists for a request and record its task; raises Refused with everything as it was.

        A process that asks the same again (its reply was lost) gets the same answer; one that asks for something else gives up what it has.
        """
        pool = self._pool_of(request)
        previous = self.tasks.get(request.process)
        if self._announced is not None:
            self._check_change(self._announced, pool, previous, request)
        asked = (pool.name, request.cores, request.socket)
        if previous and (previous.pool, previous.cores, previous.socket) == asked:
            task = msgspec.structs.replace(previous, on_move=request.on_move)
        else:
            if previous is None:
                self._check_number(request)
            task = Task(
                process=request.process,
                pool=pool.name,
                lists=tuple(self._choose(pool, request, previous)),
                pod=request.pod.uid if request.pod else "",
                container=request.container,
                cores=request.cores,
                socket=request.socket,
                on_move=request.on_move,
                origin=request.origin,
            )
        self._holdings.add(task)
        self.version += 1
        return task

    def restore(self, task: Task) -> bool:
        """Record a task as it was; False when its lists do not exist or another task holds one of them exclusively."""
        pool = self.layout.pools.get(task.pool)
        if pool is None or not task.lists or not pool.sockets.keys() >= set(task.lists):
            return False
        if pool.exclusive:
            users = self._holdings.users(pool.name)
            if any(other != task.process for name in task.lists for other in users.get(name, ())):
                return False
        self._holdings.add(task)
        self.version += 1
        return True

    def release(self, process: Process) -> Task | None:
        """Forget the task of a process; returns it, or None when there is none."""
        self.version += 1
        return self._holdings.remove(process)

    def environment(self, task: Task) -> dict[str, str]:
        """Variables that the workload sees."""
        lists = [item.cpus for item in self._lists(task)]
        return choice.environment(lists, self.layout.cpus_of("shared"), self.layout.cpus_of("infra"))

    def _cpus_of_lists(self, pool: str, names: Iterable[str]) -> CpuSet:
        return _NOTHING.union(*(item.cpus for item in self.layout.pools[pool].named(names)))

    def _lists(self, task: Task) -> list[CpuList]:
        return self.layout.pools[task.pool].named(task.lists)

    def _pool_of(self, request: Request) -> Pool:
        return self.layout.pools[choice.find_pool(self.layout.pools, request.pool)]

    def _choose(self, pool: Pool, request: Request, previous: Task | None) -> list[str]:
        """Names of the lists for a request, as if its process did not hold those of ``previous``; raises Refused."""
        lists, users = pool.sockets, self._holdings.numbers(pool.name)
        given_up = previous if previous and previous.pool == pool.name else None
        if pool.exclusive:
            # A socket without lists is refused at once, whatever else would have to be waited for.
            choice.on_socket(pool.name, lists, request.socket)
            self._check_grant(pool, request, given_up)
        if given_up:
            users = {**users, **{name: users[name] - 1 for name in given_up.lists}}
        available = self._available(pool, request, lists)
        return choice.choose(pool.name, pool.exclusive, lists, users, request.cores, request.socket, available)

    def _check_change(self, change: _Change, pool: Pool, previous: Task | None, request: Request) -> None:
        """Refuse for now what would be in the way of a change of pools."""
        if previous:
            raise Refused("the node's pools change now, and with them perhaps the task that the process has", final=False)
        if PodContainer(request.pod.uid if request.pod else "", request.container) in change.containers:
            raise Refused("the node's pools change now, and tasks of the same container with them", final=False)
        if not pool.exclusive and not all(_is_settled(change, pool, item) for item in pool.lists):
            raise Refused(f"the node's pools change now, pool {pool.name} among them", final=False)

    def _check_number(self, request: Request) -> None:
        """Refuse one more task to a pod that has as many as a pod may have."""
        most, pod = self._tasks_per_pod, request.pod
        if most is None or self._holdings.tasks_of(pod.uid if pod else "") < most:
            return
        who = f"pod {pod} has" if pod else "processes outside pods have"
        raise Refused(f"{who} {most} tasks already, as many as the limit workloads.limits.tasks allows", final=False)

    def _available(self, pool: Pool, request: Request, lists: Iterable[str]) -> Iterable[str]:
        """Lists that the pool hands out, in this order: those that stay, then, to a pod that requests the pool, those that go."""
        if self._announced is not None:
            return [item.name for item in pool.lists if _is_settled(self._announced, pool, item)]
        if not self._going:
            return lists
        going = [name for name in lists if (pool.name, name) in self._going]
        staying = [name for name in lists if name not in going]
        is_counted = request.pod is not None and request.pod.granted(resource_of(pool.name), len(pool.lists))
        return staying + going if is_counted else staying

    def _check_grant(self, pool: Pool, request: Request, given_up: Task | None) -> None:
        if not self.require_grant:
            return
        resource = resource_of(pool.name)
        if request.pod is None:
            raise Refused(f"pool {pool.name} is for pods that request {resource}; this process is in no pod", final=True)
        granted = request.pod.granted(resource, len(pool.lists))
        if asked := 0 if granted else request.pod.grants.get(resource, 0):
            number = asked if asked <= MOST_CORES else f"more than {MOST_CORES}"
            raise Refused(
                f"pod {request.pod} requests {number} {resource}, but this node has {len(pool.lists)}, so that none is granted: "
                "lower the number in the resources of its containers",
                final=True,
            )
        if granted == 0:
            raise Refused(f"pod {request.pod} requests no {resource}: add it to a container's resources.limits", final=True)
        if request.cores > granted:
            raise Refused(
                f"{request.cores} cores of pool {pool.name} asked, pod {request.pod} is granted {granted} ({resource})",
                final=True,
            )
        held = self._holdings.lists_of(request.pod.uid, pool.name)
        if given_up and given_up.pod == request.pod.uid:
            held -= len(given_up.lists)
        if held + request.cores > granted:
            raise Refused(
                f"{request.cores} cores of pool {pool.name} asked, pod {request.pod} already holds {held} of its {granted} ({resource})",
                final=False,
            )


def _is_settled(change: _Change, pool: Pool, item: CpuList) -> bool:
    """Whether a change does not concern a list."""
    coming = change.coming.pools.get(pool.name)
    return coming is not None and coming.exclusive == pool.exclusive and item in coming.lists and not item.cpus & change.cpus
