"""Descendants of a process that may have ended, by the parents that a made-up procfs tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmk.host.kin import Kin
from cmk.host.procfs import Procfs
from cmk.model.tasks import Origin, Process

INIT, SHELL, OWNER = Process(1, 0), Process(10, 100), Process(20, 200)


def procfs_of(root: Path, processes: dict[int, tuple[int, int]]) -> Procfs:
    """A procfs of processes with these parents and starts."""
    for pid, (parent, start) in processes.items():
        (root / str(pid)).mkdir()
        (root / str(pid) / "stat").write_text(f"{pid} (x) S {parent}" + " 0" * 17 + f" {start} 0\n")
        (root / str(pid) / "status").write_text(f"Name:\tx\nNSpid:\t{pid}\n")
    return Procfs(root)


@pytest.mark.parametrize(
    ("parents", "included"),
    [
        ({}, True),
        ({30: (20, 300)}, True),
        ({30: (25, 300), 25: (20, 250)}, True),
        ({30: (10, 300)}, True),
        ({30: (1, 300)}, True),
        ({30: (1, 200)}, True),
        ({30: (1, 199)}, False),
        ({30: (11, 300), 11: (1, 150)}, False),
        ({30: (25, 300), 25: (11, 250), 11: (1, 150)}, False),
        ({30: (2, 300), 2: (0, 0)}, False),
        ({30: (0, 300)}, False),
    ],
    ids=[
        "the owner itself",
        "its child",
        "its child's child",
        "an orphan that came to its parent",
        "an orphan that came to init",
        "started in the same clock tick",
        "started before it",
        "a child of another session",
        "a grandchild of another session",
        "a thread of the kernel",
        "one of another pid namespace's parents",
    ],
)
def test_whoever_may_descend_from_a_process_is_its_kin(
    tmp_path: Path, parents: dict[int, tuple[int, int]], included: bool
) -> None:
    procfs = procfs_of(tmp_path, {1: (0, 0), 10: (1, 100), 20: (10, 200)} | parents)
    origin = Origin(OWNER, tuple(procfs.ancestors(OWNER.pid, 9)))
    assert origin.ancestors == (SHELL, INIT)
    assert Kin(procfs, origin).includes(30 if parents else 20) is included


def test_an_ancestor_of_the_same_clock_tick_is_no_kin(tmp_path: Path) -> None:
    procfs = procfs_of(tmp_path, {1: (0, 0), 10: (1, 200), 20: (10, 200)})
    assert not Kin(procfs, Origin(OWNER, tuple(procfs.ancestors(OWNER.pid, 9)))).includes(10)


def test_a_process_with_the_pid_of_an_ancestor_that_has_ended_is_none_of_them(tmp_path: Path) -> None:
    procfs = procfs_of(tmp_path, {1: (0, 0), 10: (9, 300), 9: (1, 50)})
    assert not Kin(procfs, Origin(OWNER, (SHELL, INIT))).includes(10)


@pytest.mark.parametrize(("numbers", "is_kin"), [("11 1", True), ("11 7", False), ("11", False)])
def test_an_orphan_that_came_to_the_init_of_a_pid_namespace_is_kin(tmp_path: Path, numbers: str, is_kin: bool) -> None:
    """What the owner, or one that it has started, has left there after nsenter."""
    procfs = procfs_of(tmp_path, {1: (0, 0), 11: (1, 150), 30: (11, 300)})
    (tmp_path / "11/status").write_text(f"Name:\tx\nNSpid:\t{numbers}\n")
    assert Kin(procfs, Origin(OWNER, (SHELL, INIT))).includes(30) is is_kin


def test_a_process_that_ends_meanwhile_is_a_lookup_error(tmp_path: Path) -> None:
    procfs = procfs_of(tmp_path, {1: (0, 0), 30: (29, 300)})
    with pytest.raises(ProcessLookupError):
        Kin(procfs, Origin(OWNER, (SHELL, INIT))).includes(30)


def test_each_process_of_a_long_chain_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    procfs = procfs_of(tmp_path, {1: (0, 0), 10: (1, 100), 20: (10, 200)} | {pid: (pid - 1, 300) for pid in range(21, 321)})
    kin = Kin(procfs, Origin(OWNER, (SHELL, INIT)))
    read: list[int] = []
    parent = Procfs.parent
    monkeypatch.setattr(Procfs, "parent", lambda self, pid: read.append(pid) or parent(self, pid))
    assert all(kin.includes(pid) for pid in reversed(range(21, 321)))
    assert sorted(read) == list(range(21, 321))
