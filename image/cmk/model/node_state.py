"""The state of a node that is needed to plan a change of its pools elsewhere; the agent publishes it in the node's report."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cmk.model import layout
from cmk.model import plan as planner
from cmk.model.config import Chosen, Section
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.layout import Layout, LayoutError
from cmk.model.plan import Plan
from cmk.model.pods import Pod, pool_of, resource_of
from cmk.model.tasks import Process, Task
from cmk.model.topology import Topology


class NodeStateError(CmkError):
    """State in a report that cannot be read; the text says why."""


class NodeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """``layout`` and its ``section`` are None on a node without pools. ``pods`` are the relevant pods bound to the node.

    ``outside`` are CPUs that no container may use there, the meaning of ``reserved: auto``. ``not_listed`` is how many tasks of which
    shared pool are not among ``tasks``. ``is_outdated``: the layout was made for a machine of another shape.
    """

    topology: Topology
    layout: Layout | None = None
    section: Section | None = None
    tasks: tuple[Task, ...] = ()
    pods: tuple[Pod, ...] = ()
    outside: CpuSet = frozenset()
    labels: dict[str, str] = {}
    not_listed: dict[str, int] = {}
    is_outdated: bool = False

    def plan(self, chosen: Chosen) -> tuple[Layout, Plan]:
        """The node's layout under a configuration and the plan to get there; raises ConfigError, LayoutError."""
        same = self.layout if self.section is not None and chosen.section.same_pools(self.section) else None
        if same is not None and not self.is_outdated:
            return same, Plan(self.tasks)
        try:
            after = layout.for_section(chosen.section, self.topology, self.labels, self.outside)
        except LayoutError:
            if same is None:
                raise
            return same, Plan(self.tasks)
        before = self.layout or Layout({name: msgspec.structs.replace(pool, lists=()) for name, pool in after.pools.items()})
        plan = planner.plan(before, after, self.tasks, self.pods)
        if same is not None and planner.moves_owners(plan, before):
            return same, Plan(self.tasks)  # as the agent does: pools follow the machine when their owners have ended
        return after, plan


def load(values: object) -> NodeState:
    """Read a state as agents wrote it in full, before ``report_state``; raises NodeStateError."""
    try:
        return msgspec.convert(values, NodeState)
    except msgspec.ValidationError as error:
        raise NodeStateError(str(error)) from error


def relevant_pods(pods: Iterable[Pod], tasks: Iterable[Task], layout: Layout) -> tuple[Pod, ...]:
    """Pods that a plan needs, sorted by uid: those of ``tasks`` and those that request lists, and of each only that.

    However many pods request lists, no more than there are can be granted: the plan without the rest is refused whenever that of all is.
    """
    holders = {task.pod for task in tasks}
    known = [_without_more(pod, layout) for pod in sorted(pods, key=lambda pod: pod.uid) if not pod.terminal]
    requested = dict.fromkeys(layout.pools, 0)
    relevant = []
    for pod in sorted(known, key=lambda pod: holders.isdisjoint((pod.uid, pod.config_hash))):
        counts = {pool_of(resource): count for resource, count in pod.grants.items()}
        is_holder = not holders.isdisjoint((pod.uid, pod.config_hash))
        if is_holder or any(requested[pool] < len(layout.pools[pool].lists) for pool in counts):
            relevant.append(pod)
            requested |= {pool: requested[pool] + count for pool, count in counts.items()}
    return tuple(sorted(relevant, key=lambda pod: pod.uid))


def _without_more(pod: Pod, layout: Layout) -> Pod:
    """The pod with what can be granted to it, and without its wish: tasks have the one that holds, a pod an annotation of any length."""
    counts = {resource_of(name): pod.granted(resource_of(name), len(pool.lists)) for name, pool in sorted(layout.pools.items())}
    return msgspec.structs.replace(pod, on_move="", grants={resource: count for resource, count in counts.items() if count})


def listed_tasks(tasks: Iterable[Task], layout: Layout, most: int) -> tuple[tuple[Task, ...], dict[str, int]]:
    """Tasks to list: all of exclusive pools, ``most`` of each shared pool; and by pool, how many are left out.

    Of tasks that a plan treats alike (same lists, socket, and whether they may move) one is listed before any second one: the plan without
    the rest is refused whenever that of all tasks is.
    """
    listed: list[Task] = []
    shared: dict[str, list[Task]] = {}
    for task in sorted(tasks, key=lambda task: task.process):
        pool = layout.pools.get(task.pool)
        (listed if pool is None or pool.exclusive else shared.setdefault(task.pool, [])).append(task)
    not_listed = {}
    for name, of_pool in shared.items():
        first: dict[object, Process] = {}
        for task in of_pool:
            first.setdefault((task.lists, task.socket, task.on_move.how), task.process)
        firsts = set(first.values())
        listed += sorted(of_pool, key=lambda task: task.process not in firsts)[:most]
        if len(of_pool) > most:
            not_listed[name] = len(of_pool) - most
    return tuple(sorted(listed, key=lambda task: task.process)), not_listed
