"""Cpusets of pods on random cgroup trees that answer like the kernel: enforced in an order that the kernel accepts, and restored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from cmk.isolation.cpusets import PodCpusets
from cmk.isolation.desired import CpusetRules, Hold, desired_cpusets
from cmk.model import cgroup_path, cpuset
from cmk.model.cgroup_path import PodContainer
from tests.unit.isolation.cgrouptree import UID, Kernel, container, make, pod_directory, snapshot

ALL = frozenset(range(8))
EXCLUSIVE = frozenset({2, 3, 4, 5})
SLOW = settings(deadline=None, max_examples=120)


@st.composite
def trees(draw: st.DrawFn) -> tuple[dict[str, str], bool, bool]:
    """Groups, whether cgroup v1, whether spelled as by systemd. Pods in three classes, with containers, some with groups of their own."""
    strict, systemd = draw(st.booleans()), draw(st.booleans())
    wide = "0-7" if strict else ""
    groups = {"": "0-7" if strict or draw(st.booleans()) else ""}
    for number in range(draw(st.integers(0, 5))):
        qos = draw(st.sampled_from(["", "burstable", "besteffort"]))
        pod = pod_directory(number, qos, systemd=systemd)
        if qos:
            groups[pod.split("/", maxsplit=1)[0]] = wide
        groups[pod] = wide
        for letter in draw(st.sets(st.sampled_from("abc"))):
            inside = f"{pod}/{container(letter, systemd=systemd)}"
            groups[inside] = wide
            if draw(st.booleans()):
                # A workload that may write cgroups has groups of its own in there, confined as it likes.
                groups[f"{inside}/own"] = cpuset.kernel_list(draw(st.sets(st.integers(0, 7), min_size=1)))
    return groups, strict, systemd


@st.composite
def holdings(draw: st.DrawFn) -> list[Hold]:
    """Tasks on some of the exclusive cores."""
    free, holds = sorted(EXCLUSIVE), []
    for _ in range(draw(st.integers(0, 4))):
        container_ = PodContainer(UID.format(draw(st.integers(0, 5))), draw(st.sampled_from("abc")) * 64)
        holds.append(Hold(container_, frozenset({free.pop()})))
    return holds


def enforcing(kernel: Kernel, own: dict[str, frozenset[int]], holds: list[Hold], *, lend: bool, own_pod: bool) -> PodCpusets:
    closed = EXCLUSIVE & frozenset().union(*(hold.cpus for hold in holds)) if lend else EXCLUSIVE
    rules = CpusetRules(ALL, closed, own, own_pod=own_pod, strict=kernel.strict)
    return PodCpusets(kernel, lambda groups: (desired_cpusets(groups, rules, holds), groups.keys()), lambda: None)


def own_of(kernel: Kernel) -> dict[str, frozenset[int] | None]:
    return {path: cpus for path, cpus in kernel.walk() if not cgroup_path.is_container(path) or cgroup_path.is_nested(path)}


def effective(kernel: Kernel, path: str) -> frozenset[int]:
    return kernel.effective(path)


@SLOW
@given(tree=trees(), steps=st.lists(holdings(), min_size=1, max_size=4), lend=st.booleans(), own_pod=st.booleans())
def test_nobody_but_holders_may_use_a_closed_core_and_all_goes_back(
    tree: tuple[dict[str, str], bool, bool], steps: list[list[Hold]], lend: bool, own_pod: bool
) -> None:
    groups, strict, _ = tree
    # Hundreds of small files: in memory they cost nothing.
    with tempfile.TemporaryDirectory(prefix="cmk", dir="/dev/shm") as directory:
        root = Path(directory)
        kernel = make(root, groups, strict=strict, cpus="0-7")
        before, before_effective = snapshot(root), {path: effective(kernel, path) for path in groups}
        saved = own_of(kernel)
        own = {path: cpus for path, cpus in saved.items() if cpus}
        for holds in steps:
            cpusets = enforcing(kernel, own, holds, lend=lend, own_pod=own_pod)
            cpusets.scan()
            cpusets.enforce()
            assert cpusets.problem == ""
            count = len(kernel.writes)
            cpusets.enforce()
            assert len(kernel.writes) == count, "there is nothing left to write"
            closed = frozenset().union(*(hold.cpus for hold in holds)) if lend else EXCLUSIVE
            for path in groups:
                owner = cgroup_path.container_of(path)
                if not owner.pod:
                    continue
                may = frozenset().union(
                    *(
                        hold.cpus
                        for hold in holds
                        if hold.runs_in.pod == owner.pod
                        and (not own_pod or not cgroup_path.is_container(path) or hold.runs_in.container == owner.container)
                    )
                )
                assert not effective(kernel, path) & (closed - may), path
                if not cgroup_path.is_nested(path):
                    assert may <= effective(kernel, path), path
        assert all(text for _, _, text in kernel.writes)
        nested = {path for path in groups if cgroup_path.is_nested(path)}
        if not strict:
            assert not nested & {path for path, _, _ in kernel.writes}
        cpusets.restore(saved, ALL)
        assert cpusets.problem == ""
        if strict:
            assert snapshot(root) == before
        else:  # a populated group cannot be emptied again: what it can use is as it was
            assert {path: effective(kernel, path) for path in groups} == before_effective
