"""Desired cpusets that are kept from one call to the next are those that are computed anew, whatever groups, tasks and rules do."""

from __future__ import annotations

from unittest import mock

import hypothesis.strategies as st
from hypothesis import given, settings

from cmk.isolation import desired
from cmk.isolation.desired import CpusetRules, Hold, desired_cpusets
from cmk.isolation.desired_cache import DesiredCpusets
from cmk.model.cgroup_path import PodContainer
from tests.unit.isolation.cgrouptree import UID, container, pod_directory

ALL = frozenset(range(8))
NOTHING: frozenset[int] = frozenset()
PODS = [(number, ["", "burstable", "besteffort"][number % 3]) for number in range(5)]
GROUPS = ["", "burstable", "besteffort"]
for number, qos in PODS:
    GROUPS.append(pod_directory(number, qos, systemd=False))
    GROUPS += [f"{GROUPS[-1]}/{container(letter, systemd=False)}" for letter in "ab"]
    GROUPS.append(f"{GROUPS[-1]}/own")
CPUS = st.frozensets(st.integers(0, 7))


@st.composite
def nodes(draw: st.DrawFn) -> tuple[dict[str, frozenset[int] | None], dict[PodContainer, frozenset[int]], CpusetRules]:
    """Groups without the parents of none, what tasks hold in containers, and rules; most of them are usual ones."""
    strict = draw(st.booleans())
    groups: dict[str, frozenset[int] | None] = {}
    for path in GROUPS:
        if not path or (path.rpartition("/")[0] in groups and draw(st.integers(0, 3))):
            groups[path] = ALL if strict else draw(st.sampled_from([None, ALL]))
    holds = {
        PodContainer(UID.format(number), letter * 64): frozenset({draw(st.integers(0, 7))})
        for number, _ in PODS
        for letter in "ab"
        if draw(st.booleans())
    }
    closed = draw(st.sampled_from([frozenset({2, 3, 4, 5}), frozenset({2}), NOTHING, ALL]))
    own = draw(st.sampled_from([{}, {"": ALL, "burstable": ALL}, {"": ALL, "burstable": frozenset({0, 2})}]))
    partitions = frozenset(path for path in groups if path.endswith("a" * 64) and not draw(st.integers(0, 9)))
    return groups, holds, CpusetRules(ALL, closed, own, draw(st.booleans()), strict, partitions)


@settings(deadline=None, max_examples=400)
@given(first=nodes(), steps=st.lists(st.tuples(nodes(), st.sets(st.sampled_from(["groups", "holds", "rules"]))), max_size=6))
def test_what_is_kept_is_what_would_be_computed(
    first: tuple[dict[str, frozenset[int] | None], dict[PodContainer, frozenset[int]], CpusetRules],
    steps: list[tuple[tuple[dict[str, frozenset[int] | None], dict[PodContainer, frozenset[int]], CpusetRules], set[str]]],
) -> None:
    kept, (groups, holds, rules) = DesiredCpusets(), first
    before: dict[str, frozenset[int]] = {}
    for node, changes in [(first, set[str]()), *steps]:
        groups, holds, rules = (
            new if name in changes else old
            for name, new, old in zip(("groups", "holds", "rules"), node, (groups, holds, rules), strict=True)
        )
        wanted, changed = kept.update(groups, rules, holds)
        assert wanted == desired_cpusets(groups, rules, [Hold(*item) for item in holds.items()])
        assert {path for path, cpus in wanted.items() if before.get(path) != cpus} <= changed
        before = dict(wanted)


def test_an_allocation_on_a_node_of_500_pods_looks_at_the_groups_of_one() -> None:
    groups: dict[str, frozenset[int] | None] = dict.fromkeys(["", "burstable", "besteffort"], ALL)
    pods = [PodContainer(f"0c8a3e6e-6d3f-4f0c-9d5e-{number:012x}", "ab" * 32) for number in range(500)]
    for number, pod in enumerate(pods):
        path = f"{['burstable', 'besteffort'][number % 2]}/pod{pod.pod}"
        groups |= {path: ALL, f"{path}/{pod.container}": ALL}
    kept, rules = DesiredCpusets(), CpusetRules(ALL, frozenset({2, 3}))
    holds = dict.fromkeys(pods[:250], frozenset({0}))
    kept.update(groups, rules, holds)
    looked: list[int] = []
    with mock.patch.object(
        desired, "desired_cpusets", lambda part, *rest: looked.append(len(part)) or desired_cpusets(part, *rest)
    ):
        for pod in pods[:100]:
            kept.update(groups, rules, {**holds, pod: frozenset({2})})
            kept.update(groups, rules, holds)
            kept.update(groups, rules, holds)
    assert len(looked) == 200
    assert max(looked) <= 8
