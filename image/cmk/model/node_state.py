"""All that has to be known of a node to plan a change of its pools elsewhere: the agent publishes it in the node's report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from cmk.model import layout
from cmk.model import plan as planner
from cmk.model.config import Chosen, Section
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError
from cmk.model.layout import Layout
from cmk.model.plan import Plan
from cmk.model.pods import Pod
from cmk.model.tasks import Task
from cmk.model.topology import Topology


class NodeStateError(CmkError):
    """A report that cannot be read; the text says why."""


class NodeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """``layout`` and the ``section`` it was made from are None on a node that nobody serves. ``pods`` are those bound to it that matter to
    pools; ``outside`` is what ``reserved: auto`` means there.
    """

    topology: Topology
    layout: Layout | None = None
    section: Section | None = None
    tasks: tuple[Task, ...] = ()
    pods: tuple[Pod, ...] = ()
    outside: CpuSet = frozenset()
    labels: dict[str, str] = {}

    def plan(self, chosen: Chosen) -> tuple[Layout, Plan]:
        """What a configuration means for the node; raises ConfigError, LayoutError."""
        if self.layout is not None and self.section is not None and chosen.section.same_pools(self.section):
            return self.layout, Plan(self.tasks)
        made = layout.for_section(chosen.section, self.topology, self.labels, self.outside)
        before = self.layout or Layout({name: msgspec.structs.replace(pool, lists=()) for name, pool in made.pools.items()})
        return made, planner.plan(before, made, self.tasks, self.pods)


def dump(state: NodeState) -> dict[str, Any]:
    """As JSON has it, in an order that does not change."""
    found: dict[str, Any] = msgspec.to_builtins(state, order="sorted")
    return found


def load(found: object) -> NodeState:
    """Read what ``dump`` made; raises NodeStateError."""
    try:
        return msgspec.convert(found, NodeState)
    except msgspec.ValidationError as error:
        raise NodeStateError(str(error)) from error


def mattering(pods: Iterable[Pod], tasks: Iterable[Task]) -> tuple[Pod, ...]:
    """Pods that may hold something or do so, in an order that does not change."""
    holders = {task.pod for task in tasks}
    found = (pod for pod in pods if not pod.terminal and (pod.grants or pod.uid in holders or pod.config_hash in holders))
    return tuple(sorted(found, key=lambda pod: pod.uid))
