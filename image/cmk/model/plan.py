"""What a change of pools means for tasks that run: who keeps his lists, who moves and where to, and why it may be impossible.

Pure and deterministic. A list that both layouts have in a pool of the same kind keeps its task; a list that goes is replaced by one on
its socket, else by any; a task that asked for a socket stays there. What does not fit is a refusal, and then nothing moves.
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
    """A task, the names of its lists afterwards, and the CPUs of its lists before and after."""

    task: Task
    lists: tuple[str, ...]
    old_lists: tuple[CpuSet, ...]
    new_lists: tuple[CpuSet, ...]

    @property
    def after(self) -> Task:
        """The task as it is booked afterwards."""
        return msgspec.structs.replace(self.task, lists=self.lists, generation=self.task.generation + 1)

    @property
    def old(self) -> CpuSet:
        """All CPUs before."""
        return NOTHING.union(*self.old_lists)

    @property
    def new(self) -> CpuSet:
        """All CPUs after."""
        return NOTHING.union(*self.new_lists)


class Refusal(msgspec.Struct, frozen=True):
    """Why the new layout cannot be had while these tasks run, or these pods are bound."""

    pool: str
    text: str
    pod: str = ""
    container: str = ""


class Plan(msgspec.Struct, frozen=True):
    """With refusals there are neither keeps nor moves."""

    keeps: tuple[Task, ...] = ()
    moves: tuple[Move, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def plan(old: Layout, new: Layout, tasks: Iterable[Task], pods: Iterable[Pod] = ()) -> Plan:
    """Plan the change from one layout to the other. ``pods`` are bound to the node and have not ended, with what each is granted."""
    ordered = sorted(tasks, key=lambda task: task.process)
    bound = list(pods)
    names = _names(bound)
    refusals = _vanished(old, new, ordered, names) or _too_small(new, ordered, bound)
    if refusals:
        return Plan(refusals=tuple(refusals))
    lists: dict[Process, tuple[str, ...]] = {}
    for name in sorted({task.pool for task in ordered}):
        of_pool = [task for task in ordered if task.pool == name]
        placed, lost = (_exclusive if new.pools[name].exclusive else _shared)(old.pools[name], new.pools[name], of_pool)
        lists |= placed
        refusals += [Refusal(name, _no_list(task, new.pools[name], names), task.pod, task.container) for task in lost]
    if refusals:
        return Plan(refusals=tuple(refusals))
    moves, keeps = [], []
    for task in ordered:
        move = Move(task, lists[task.process], _lists(old, task.pool, task.lists), _lists(new, task.pool, lists[task.process]))
        if move.old == move.new and move.lists == task.lists:
            keeps.append(task)
        else:
            moves.append(move)
    refusals = [_stays(move, names) for move in moves if move.task.on_move.how is How.PINNED and move.old != move.new]
    return Plan(refusals=tuple(refusals)) if refusals else Plan(tuple(keeps), tuple(moves))


def _names(pods: Iterable[Pod]) -> dict[str, str]:
    return {uid: str(pod) for pod in pods for uid in (pod.uid, pod.config_hash) if uid}


def _vanished(old: Layout, new: Layout, tasks: list[Task], names: Mapping[str, str]) -> list[Refusal]:
    found = []
    for task in tasks:
        before, after = old.pools[task.pool], new.pools.get(task.pool)
        if after is None or after.exclusive != before.exclusive:
            becomes = "goes" if after is None else f"becomes {'exclusive' if after.exclusive else 'shared'}"
            cpus = cpuset.kernel_list(cpus_of(old, task))
            text = f"pool {task.pool} {becomes}, but {_who(task, names)} runs on its CPUs {cpus}"
            found.append(Refusal(task.pool, text, task.pod, task.container))
    return found


def _too_small(new: Layout, tasks: list[Task], pods: list[Pod]) -> list[Refusal]:
    """Pods that are bound keep what they requested: kubelet would reject them at its next start if the node had less to give."""
    found = []
    pools = {task.pool for task in tasks} | {name for name, pool in new.pools.items() if pool.exclusive}
    asked = {resource for pod in pods for resource in pod.grants}
    names = _names(pods)
    for name in sorted(pools | {pool_of(resource) for resource in asked}):
        pool = new.pools.get(name)
        if pool is not None and not pool.exclusive:
            continue
        wanted = demand(name, tasks, pods)
        have = len(pool.lists) if pool else 0
        if sum(wanted.values()) > have:
            who = ", ".join(
                f"{names.get(uid) or uid or 'processes outside pods'} {count}" for uid, count in sorted(wanted.items())
            )
            found.append(
                Refusal(name, f"pool {name} would have {have} cores, but {sum(wanted.values())} are held or requested: {who}")
            )
    return found


def _exclusive(old: Pool, new: Pool, tasks: list[Task]) -> tuple[dict[Process, tuple[str, ...]], list[Task]]:
    """Lists for the tasks of an exclusive pool, and those for whom there are none."""
    sockets = {item.name: item.socket for item in old.lists}
    there = {item.name for item in new.lists}
    placed = {task.process: [name for name in task.lists if name in there] for task in tasks}
    taken = {name for names in placed.values() for name in names}
    free = [item for item in new.lists if item.name not in taken]
    lost = [(task, sockets[name]) for task in tasks for name in task.lists if name not in there]
    # Who asked for a socket has no choice; who was on one comes before whoever has to leave his.
    for turn in (_on_asked, _on_same, _on_any):
        for item in list(lost):
            task, socket = item
            choice = next((candidate for candidate in free if turn(task, socket, candidate)), None)
            if choice is not None:
                free.remove(choice)
                lost.remove(item)
                placed[task.process].append(choice.name)
    first = {item.name: min(item.cpus) for item in new.lists}
    done = {process: tuple(sorted(names, key=first.__getitem__)) for process, names in placed.items()}
    unlucky = {task.process for task, _ in lost}
    return done, [task for task in tasks if task.process in unlucky]


def _on_asked(task: Task, socket: int, candidate: CpuList) -> bool:
    return candidate.socket == task.socket != ANY_SOCKET


def _on_same(task: Task, socket: int, candidate: CpuList) -> bool:
    return task.socket == ANY_SOCKET and candidate.socket == socket


def _on_any(task: Task, socket: int, candidate: CpuList) -> bool:
    return task.socket == ANY_SOCKET


def _shared(old: Pool, new: Pool, tasks: list[Task]) -> tuple[dict[Process, tuple[str, ...]], list[Task]]:
    """Tasks of a shared pool follow it: to its list on their socket, else to the one with the fewest."""
    sockets = {item.name: item.socket for item in old.lists}
    users = {item.name: 0 for item in new.lists}
    placed: dict[Process, tuple[str, ...]] = {}
    lost = []
    for task in tasks:
        wanted = task.socket if task.socket != ANY_SOCKET and new.name != "infra" else None
        fit = [item for item in new.lists if wanted is None or item.socket == wanted]
        here = [item for item in fit if item.socket in {sockets[name] for name in task.lists}]
        if not fit:
            lost.append(task)
            continue
        choice = min(here or fit, key=lambda item: (users[item.name], min(item.cpus)))
        users[choice.name] += 1
        placed[task.process] = (choice.name,)
    return placed, lost


def told(move: Move) -> str:
    """A move in words."""
    return f"process {move.task.process.pid} moved from CPUs {cpuset.kernel_list(move.old)} to {cpuset.kernel_list(move.new)}"


def cpus_of(layout: Layout, task: Task, lists: Iterable[str] | None = None) -> CpuSet:
    """CPUs that a task has in a layout, by its own lists or by others."""
    return NOTHING.union(*_lists(layout, task.pool, task.lists if lists is None else lists))


def _lists(layout: Layout, pool: str, names: Iterable[str]) -> tuple[CpuSet, ...]:
    return tuple(item.cpus for item in layout.pools[pool].named(names))


def _who(task: Task, names: Mapping[str, str]) -> str:
    process = f"process {task.process.pid}"
    if not task.pod:
        return process
    return f"{process} of pod {names.get(task.pod, task.pod)}" + (f", container {task.container[:12]}," if task.container else "")


def _no_list(task: Task, pool: Pool, names: Mapping[str, str]) -> str:
    where = f" on socket {task.socket}, which it asked for" if task.socket != ANY_SOCKET else ""
    return f"pool {pool.name} has no list left for {_who(task, names)}{where}"


def _stays(move: Move, names: Mapping[str, str]) -> Refusal:
    text = (
        f"{_who(move.task, names)} does not move (cmk.intel.com/on-move: pinned), but would have to go from CPUs "
        f"{cpuset.kernel_list(move.old)} to {cpuset.kernel_list(move.new)}"
    )
    return Refusal(move.task.pool, text, move.task.pod, move.task.container)
