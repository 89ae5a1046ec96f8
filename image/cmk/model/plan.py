"""The effect of a change of pools on running tasks: which tasks keep their lists, which move and where to, or why the change is refused.

Pure and deterministic. A task keeps a list that both layouts have in its pool; a list that the new layout lacks is replaced by one on the
same socket, else by any; a task that asked for a socket stays on it. If any task does not fit, the plan is refused and no task moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from cmk.model import cpuset
from cmk.model.advertise import demand
from cmk.model.choice import ANY_SOCKET
from cmk.model.cpuset import CpuSet
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.onmove import How
from cmk.model.pods import Pod, pool_of
from cmk.model.tasks import Process, Task

NOTHING: CpuSet = frozenset()


class Move(msgspec.Struct, frozen=True):
    """A task, the names of its lists after the move, and the CPUs of its lists before and after."""

    task: Task
    lists: tuple[str, ...]
    old_lists: tuple[CpuSet, ...]
    new_lists: tuple[CpuSet, ...]

    @property
    def after(self) -> Task:
        """The task after the move."""
        return msgspec.structs.replace(self.task, lists=self.lists, generation=self.task.generation + 1)

    @property
    def old(self) -> CpuSet:
        """All CPUs before."""
        return NOTHING.union(*self.old_lists)

    @property
    def new(self) -> CpuSet:
        """All CPUs after."""
        return NOTHING.union(*self.new_lists)


class PlanRefusal(msgspec.Struct, frozen=True):
    """Why the new layout is impossible while a task runs or pods are bound; ``pod`` and ``container`` are those of the task."""

    pool: str
    text: str
    pod: str = ""
    container: str = ""


class Plan(msgspec.Struct, frozen=True):
    """Tasks that keep their CPUs and tasks that move; with refusals there are neither."""

    keeps: tuple[Task, ...] = ()
    moves: tuple[Move, ...] = ()
    refusals: tuple[PlanRefusal, ...] = ()


def moves_owners(plan: Plan, layout: Layout) -> bool:
    """Whether a plan that leads away from a layout is refused or moves a task of an exclusive pool."""
    return bool(plan.refusals) or any(layout.pools[move.task.pool].exclusive for move in plan.moves)


def plan(old: Layout, new: Layout, tasks: Iterable[Task], pods: Iterable[Pod] = ()) -> Plan:
    """Plan the change from one layout to the other. ``pods`` are the pods bound to the node that have not ended."""
    ordered = sorted(tasks, key=lambda task: task.process)
    bound = list(pods)
    names = _names(bound)
    refusals = _removed_pools(old, new, ordered, names) or _too_small(old, new, ordered, bound)
    if refusals:
        return Plan(refusals=tuple(refusals))
    lists: dict[Process, tuple[str, ...]] = {}
    for name in sorted({task.pool for task in ordered}):
        of_pool = [task for task in ordered if task.pool == name]
        placed, unplaced = (_exclusive if new.pools[name].exclusive else _shared)(old.pools[name], new.pools[name], of_pool)
        lists |= placed
        refusals += [PlanRefusal(name, _no_list(task, new.pools[name], names), task.pod, task.container) for task in unplaced]
    if refusals:
        return Plan(refusals=tuple(refusals))
    moves, keeps = [], []
    for task in ordered:
        move = Move(task, lists[task.process], _lists(old, task.pool, task.lists), _lists(new, task.pool, lists[task.process]))
        if move.old == move.new and move.lists == task.lists:
            keeps.append(task)
        else:
            moves.append(move)
    refusals = [_refuse_move(move, names) for move in moves if move.task.on_move.how is How.PINNED and move.old != move.new]
    return Plan(refusals=tuple(refusals)) if refusals else Plan(tuple(keeps), tuple(moves))


def _names(pods: Iterable[Pod]) -> dict[str, str]:
    return {uid: str(pod) for pod in pods for uid in (pod.uid, pod.config_hash) if uid}


def _removed_pools(old: Layout, new: Layout, tasks: list[Task], names: Mapping[str, str]) -> list[PlanRefusal]:
    refusals = []
    for task in tasks:
        before, after = old.pools[task.pool], new.pools.get(task.pool)
        if after is None or after.exclusive != before.exclusive:
            becomes = "is removed" if after is None else f"becomes {'exclusive' if after.exclusive else 'shared'}"
            cpus = cpuset.kernel_list(cpus_of(old, task))
            text = f"pool {task.pool} {becomes}, but {_name(task, names)} runs on its CPUs {cpus}"
            refusals.append(PlanRefusal(task.pool, text, task.pod, task.container))
    return refusals


def _too_small(old: Layout, new: Layout, tasks: list[Task], pods: list[Pod]) -> list[PlanRefusal]:
    """Bound pods keep what they requested: kubelet would reject them at its next start if the node had less.

    Only what the pool has now can be granted: requests beyond that prevent nothing.
    """
    refusals = []
    pools = {task.pool for task in tasks} | {name for name, pool in new.pools.items() if pool.exclusive}
    resources = {resource for pod in pods for resource in pod.grants}
    names = _names(pods)
    for name in sorted(pools | {pool_of(resource) for resource in resources}):
        pool = new.pools.get(name)
        if pool is not None and not pool.exclusive:
            continue
        present = len(old.pools[name].lists) if name in old.pools else 0
        demanded = demand(name, tasks, pods, present)
        cores, needed = len(pool.lists) if pool else 0, min(sum(demanded.values()), present)
        if needed > cores:
            by_pod = ", ".join(
                f"{names.get(uid) or uid or 'processes outside pods'} {count}" for uid, count in sorted(demanded.items())
            )
            refusals.append(
                PlanRefusal(name, f"pool {name} would have {cores} cores, but {needed} are held or requested: {by_pod}")
            )
    return refusals


def _exclusive(old: Pool, new: Pool, tasks: list[Task]) -> tuple[dict[Process, tuple[str, ...]], list[Task]]:
    """New lists for the tasks of an exclusive pool, and the tasks for which some list is missing."""
    sockets = {item.name: item.socket for item in old.lists}
    remaining = {item.name for item in new.lists}
    placed = {task.process: [name for name in task.lists if name in remaining] for task in tasks}
    kept = {name for names in placed.values() for name in names}
    free = [item for item in new.lists if item.name not in kept]
    to_replace = [(task, sockets[name]) for task in tasks for name in task.lists if name not in remaining]
    # Serve tasks pinned to a socket first, then tasks that can stay on their socket, then the rest.
    for fits in (_on_requested_socket, _on_same_socket, _on_any_socket):
        for item in list(to_replace):
            task, socket = item
            choice = next((candidate for candidate in free if fits(task, socket, candidate)), None)
            if choice is not None:
                free.remove(choice)
                to_replace.remove(item)
                placed[task.process].append(choice.name)
    first = {item.name: min(item.cpus) for item in new.lists}
    lists = {process: tuple(sorted(names, key=first.__getitem__)) for process, names in placed.items()}
    unplaced = {task.process for task, _ in to_replace}
    return lists, [task for task in tasks if task.process in unplaced]


def _on_requested_socket(task: Task, socket: int, candidate: CpuList) -> bool:
    return candidate.socket == task.socket != ANY_SOCKET


def _on_same_socket(task: Task, socket: int, candidate: CpuList) -> bool:
    return task.socket == ANY_SOCKET and candidate.socket == socket


def _on_any_socket(task: Task, socket: int, candidate: CpuList) -> bool:
    return task.socket == ANY_SOCKET


def _shared(old: Pool, new: Pool, tasks: list[Task]) -> tuple[dict[Process, tuple[str, ...]], list[Task]]:
    """New lists for the tasks of a shared pool (the one on their socket, else the one with the fewest tasks), and tasks without any."""
    sockets = {item.name: item.socket for item in old.lists}
    users = {item.name: 0 for item in new.lists}
    placed: dict[Process, tuple[str, ...]] = {}
    unplaced = []
    for task in tasks:
        requested = task.socket if task.socket != ANY_SOCKET and new.name != "infra" else None
        candidates = [item for item in new.lists if requested is None or item.socket == requested]
        same_socket = [item for item in candidates if item.socket in {sockets[name] for name in task.lists}]
        if not candidates:
            unplaced.append(task)
            continue
        choice = min(same_socket or candidates, key=lambda item: (users[item.name], min(item.cpus)))
        users[choice.name] += 1
        placed[task.process] = (choice.name,)
    return placed, unplaced


def describe(move: Move) -> str:
    """A move as a sentence, for an event."""
    return f"process {move.task.process.pid} moved from CPUs {cpuset.kernel_list(move.old)} to {cpuset.kernel_list(move.new)}"


def cpus_of(layout: Layout, task: Task, lists: Iterable[str] | None = None) -> CpuSet:
    """CPUs of a task's lists in a layout, or of the lists named in ``lists``."""
    return NOTHING.union(*_lists(layout, task.pool, task.lists if lists is None else lists))


def _lists(layout: Layout, pool: str, names: Iterable[str]) -> tuple[CpuSet, ...]:
    return tuple(item.cpus for item in layout.pools[pool].named(names))


def _name(task: Task, names: Mapping[str, str]) -> str:
    process = f"process {task.process.pid}"
    if not task.pod:
        return process
    return f"{process} of pod {names.get(task.pod, task.pod)}" + (f", container {task.container[:12]}," if task.container else "")


def _no_list(task: Task, pool: Pool, names: Mapping[str, str]) -> str:
    where = f" on socket {task.socket}, which it asked for" if task.socket != ANY_SOCKET else ""
    return f"pool {pool.name} has no list left for {_name(task, names)}{where}"


def _refuse_move(move: Move, names: Mapping[str, str]) -> PlanRefusal:
    text = (
        f"{_name(move.task, names)} does not move (cmk.intel.com/on-move: pinned), but would have to move from CPUs "
        f"{cpuset.kernel_list(move.old)} to {cpuset.kernel_list(move.new)}"
    )
    return PlanRefusal(move.task.pool, text, move.task.pod, move.task.container)
