from __future__ import annotations

from pathlib import Path

import pytest

from cmk.isolation.cgroups import FILE, CgroupError, CpusetTree
from tests.unit.isolation.cgrouptree import make, set_text


@pytest.mark.parametrize("strict", [True, False], ids=["v1", "v2"])
@pytest.mark.parametrize("top", ["kubepods", "kubepods.slice", "kubelet/kubepods", "a/b/kubepods"])
def test_kubepods_is_found_below_the_cgroup_root_of_kubelet(tmp_path: Path, strict: bool, top: str) -> None:
    tree = make(tmp_path, {"": "0-3", "burstable": "0-1"}, strict=strict, cpus="0-3", top=top)
    assert tree.strict is strict
    assert list(tree.walk()) == [("", frozenset({0, 1, 2, 3})), ("burstable", frozenset({0, 1}))]
    assert tree.path_of(tree.directory("burstable")) == "burstable"


def test_without_kubepods_the_error_names_the_directory(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=f"^{tmp_path} has no kubepods"):
        make(tmp_path, {"": ""}, strict=False, cpus="0-3", top="a/b/c/kubepods")


def test_without_a_cpuset_controller_the_error_names_the_mount(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    with pytest.raises(CgroupError, match=f"^{tmp_path} has no cpuset controller"):
        CpusetTree(tmp_path)


def test_without_cgroups_the_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=f"cannot read {tmp_path}/cgroup.controllers: No such file"):
        CpusetTree(tmp_path)


@pytest.mark.parametrize(("cpus", "configured"), [(frozenset({1}), "1"), (None, "0-1")], ids=["own CPUs", "no CPUs of its own"])
def test_a_populated_group_gets_its_cpus_back_or_else_those_of_its_parent(
    tmp_path: Path, cpus: frozenset[int] | None, configured: str
) -> None:
    tree = make(tmp_path, {"": "0-1", "burstable": "0"}, strict=False, cpus="0-3")
    tree.restore("burstable", cpus)
    assert tree.read_file("burstable", FILE) == configured


@pytest.mark.parametrize(("strict", "budgets"), [(True, ["burstable"]), (False, [])], ids=["v1", "v2"])
def test_groups_with_a_realtime_budget_are_those_of_cgroup_v1(tmp_path: Path, strict: bool, budgets: list[str]) -> None:
    tree = make(tmp_path, {"": "0-3"}, strict=strict, cpus="0-3")
    for path, budget in {"": "0", "burstable": "1000"}.items():
        directory = tmp_path / "cpu/kubepods" / path
        directory.mkdir(parents=True, exist_ok=True)
        set_text(directory, "cpu.rt_runtime_us", budget)
    assert tree.with_realtime_budget() == [tmp_path / "cpu/kubepods" / path for path in budgets]
