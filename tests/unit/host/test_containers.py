"""Processes of containers, in made-up trees of cgroups and in real ones of processes of the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cmk.host.containers import Containers
from cmk.model.cgroup_path import PodContainer

UID, ID, OTHER = "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "ab" * 32, "cd" * 32
PLACE = PodContainer(UID, ID)
SLICE = f"kubepods-burstable-pod{UID.replace('-', '_')}.slice"


def group(root: Path, path: str, *pids: int) -> Path:
    directory = root / path
    directory.mkdir(parents=True)
    (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return directory


@pytest.mark.parametrize(
    "path",
    [
        f"cpuset/kubepods/burstable/pod{UID}/{ID}",
        f"cpuset/kubepods/pod{UID}/{ID}",
        f"cpuset/a/b/kubepods/besteffort/pod{UID}/{ID}",
        f"kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope",
        f"kubepods.slice/{SLICE.replace('burstable-', '')}/crio-{ID}.scope",
    ],
    ids=["cgroupfs", "guaranteed", "below another root", "systemd", "cri-o, guaranteed"],
)
def test_a_container_is_found_in_every_driver_s_spelling(tmp_path: Path, path: str) -> None:
    group(tmp_path, path, 7, 8)
    group(tmp_path, str(Path(path).with_name(OTHER)), 9)
    assert Containers(tmp_path).pids(PLACE) == [7, 8]


def test_groups_that_a_container_has_made_belong_to_it(tmp_path: Path) -> None:
    path = group(tmp_path, f"kubepods/pod{UID}/{ID}", 7)
    group(path, "container", 7, 8)
    group(path, "container/kubepods", 9)
    assert sorted(Containers(tmp_path).pids(PLACE) or []) == [7, 8, 9]


def test_processes_of_namespaces_that_are_not_below_ours_do_not_count(tmp_path: Path) -> None:
    group(tmp_path, f"kubepods/pod{UID}/{ID}", 0, 7)
    assert Containers(tmp_path).pids(PLACE) == [7]


def test_a_container_that_was_removed_has_no_processes_and_is_forgotten(tmp_path: Path) -> None:
    path = group(tmp_path, f"kubepods/pod{UID}/{ID}", 7)
    containers = Containers(tmp_path)
    assert containers.pids(PLACE) == [7]
    (path / "cgroup.procs").unlink()
    path.rmdir()
    assert containers.pids(PLACE) == []
    assert containers.pids(PLACE) is None


@pytest.mark.parametrize("container", [PLACE, PodContainer(UID), PodContainer()], ids=["unknown", "a pod's own", "outside pods"])
@pytest.mark.parametrize("path", ["kubepods/burstable", "system.slice"])
def test_what_has_no_group_is_not_told(tmp_path: Path, path: str, container: PodContainer) -> None:
    group(tmp_path, path, 7)
    assert Containers(tmp_path).pids(container) is None


def test_pods_are_listed_once_for_all_containers_and_again_for_one_that_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(100):
        group(tmp_path, f"kubepods/burstable/pod{UID[:-2]}{number:02}/{ID}", number + 1)
    listed: list[Path] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path)) or scandir(path))
    containers = Containers(tmp_path)
    for number in range(100):
        for _ in range(2):
            assert containers.pids(PodContainer(f"{UID[:-2]}{number:02}", ID)) == [number + 1]
    quality = tmp_path / "kubepods/burstable"
    assert listed.count(quality) == 1
    assert len(listed) <= 110
    group(tmp_path, f"kubepods/burstable/pod{UID}/{ID}", 7)
    assert containers.pids(PLACE) == [7]
    assert listed.count(quality) == 2


def test_a_group_that_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    path = group(tmp_path, f"kubepods/pod{UID}/{ID}")
    (path / "cgroup.procs").unlink()
    (path / "cgroup.procs").mkdir()
    assert Containers(tmp_path).pids(PLACE) is None


def test_groups_of_any_depth_are_read_or_told_to_be_unknown(tmp_path: Path) -> None:
    path = group(tmp_path, f"kubepods/pod{UID}/{ID}", 7)
    before = os.open(".", os.O_RDONLY)
    os.chdir(path)
    try:
        for _ in range(1200):  # deeper than Python recurses, and than a path may be long
            Path("abcd").mkdir()
            os.chdir("abcd")
            Path("cgroup.procs").write_text("8\n")
        assert Containers(tmp_path).pids(PLACE) is None
    finally:
        os.fchdir(before)
        os.close(before)
        subprocess.run(["rm", "-rf", str(path)], check=True)


def test_of_a_container_with_very_many_groups_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = group(tmp_path, f"kubepods/pod{UID}/{ID}", 7)
    for number in range(3):
        group(path, str(number), number + 8)
    monkeypatch.setattr("cmk.host.containers._MOST_GROUPS", 4)
    assert sorted(Containers(tmp_path).pids(PLACE) or []) == [7, 8, 9, 10]
    monkeypatch.setattr("cmk.host.containers._MOST_GROUPS", 3)
    assert Containers(tmp_path).pids(PLACE) is None
