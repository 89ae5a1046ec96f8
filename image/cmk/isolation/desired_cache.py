"""The CPUs that cgroups should have, kept from one allocation to the next: what has not changed is not computed again.

The same answers as ``desired_cpusets`` of all groups (tests/property/test_desired_cache.py). A node has some thousand groups, of which an
allocation concerns those of one pod and the few above pods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set

from cmk.isolation import desired
from cmk.isolation.desired import CpusetRules, Groups, Hold
from cmk.model.cgroup_path import PodContainer, container_of, parent_of, top_down
from cmk.model.cpuset import CpuSet

NOTHING: CpuSet = frozenset()
Held = Mapping[PodContainer, CpuSet]


class DesiredCpusets:
    """Desired CPUs by group. ``children`` are the groups right below each, as of the last ``update``."""

    def __init__(self) -> None:
        self._rules: CpusetRules | None = None
        self._configured: dict[str, bool] = {}
        self._holds: Held = {}
        self._of_pods: dict[str, list[str]] = {}
        self._above: list[str] = []
        self._wanted: dict[str, CpuSet] = {}
        self.children: Mapping[str, list[str]] = {}

    def update(self, groups: Groups, rules: CpusetRules, holds: Held) -> tuple[Mapping[str, CpuSet], Set[str]]:
        """All desired CPUs, and the groups for which they may be others than after the last update. ``holds``: CPUs held in containers."""
        configured = {path: cpus is not None for path, cpus in groups.items()}
        # A group of cgroup v2 may need CPUs of its own because it has some.
        others = {path for path, _ in configured.items() ^ self._configured.items()} if configured != self._configured else set()
        if configured.keys() != self._configured.keys():
            self._sort(groups)
        is_same = rules == self._rules and _is_separable(rules, self._above) and all(container_of(path).pod for path in others)
        changed = {container_of(path).pod for path in others} | {
            container.pod for container in self._holds.keys() | holds.keys() if self._holds.get(container) != holds.get(container)
        }
        self._configured, self._rules, self._holds = configured, rules, dict(holds)
        if not is_same:
            self._wanted = desired.desired_cpusets(groups, rules, [Hold(*item) for item in holds.items()])
            return self._wanted, groups.keys()
        if not changed:
            return self._wanted, frozenset()
        paths = [*self._above, *(path for pod in changed for path in self._of_pods.get(pod, ()))]
        own, beside = self._beside(changed)
        wanted = desired.desired_cpusets({path: groups[path] for path in (*paths, *beside)}, rules, own)
        for path in (*paths, *others):
            self._wanted.pop(path, None)
        self._wanted.update((path, wanted[path]) for path in paths if path in wanted)
        return self._wanted, frozenset(paths)

    def _beside(self, changed: Set[str]) -> tuple[list[Hold], list[str]]:
        """What tasks of these pods hold, and what all others do, by one pod for each group above: these need to know no more; its group."""
        own: list[Hold] = []
        held: dict[str, CpuSet] = {}
        first: dict[str, str] = {}
        for container, cpus in self._holds.items():
            if container.pod in changed:
                own.append(Hold(container, cpus))
            elif paths := self._of_pods.get(container.pod):
                above = parent_of(paths[0])
                first.setdefault(above, paths[0])
                held[above] = held.get(above, NOTHING) | cpus
        return [*own, *(Hold(PodContainer(container_of(path).pod), held[above]) for above, path in first.items())], [
            *first.values()
        ]

    def _sort(self, groups: Groups) -> None:
        of_pods: defaultdict[str, list[str]] = defaultdict(list)
        children: defaultdict[str, list[str]] = defaultdict(list)
        for path in top_down(groups):
            of_pods[container_of(path).pod].append(path)
            if path:
                children[parent_of(path)].append(path)
        self._above = of_pods.pop("", [])
        self._of_pods, self.children = of_pods, children


def _is_separable(rules: CpusetRules, above: list[str]) -> bool:
    """Whether what a pod's groups should have depends on nothing but the pod's own tasks.

    It is so while groups above pods have all CPUs of kubepods but the closed ones, and there are some.
    """
    return bool(rules.universe - rules.closed) and all(rules.own.get(path, rules.universe) == rules.universe for path in above)
