"""Files of direct mode that a disk, an editor or a power cut has damaged: a refusal, the layout alone after a reboot, or what they said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cmk.direct.pools import ConfDir, PoolsFile
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.isolate import local
from cmk.isolate.say import Failure
from cmk.model.config import Section
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.topology import Topology
from tests.unit.conftest import Host

LISTS = (CpuList(frozenset({0}), 0),)
SAVED = SavedLayout(Layout({"first": Pool("first", True, LISTS)}), Section({}, "h"), "s", Topology(()))
TASK = {
    "process": {"pid": 7, "start": 70},
    "pool": "first",
    "lists": ["0"],
    "cores": 1,
    "socket": -1,
    "on_move": {"how": "follow"},
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small state of boot ``now``, in which the marker says that it was written."""
    content = {"saved": msgspec.to_builtins(SAVED), "boot": "now", "tasks": [TASK], "moving": {"7": ["1"]}, "pidns": "pid:[1]"}
    (tmp_path / local.STATE).write_bytes(local.seal(local.encode(content).encode()))
    (tmp_path / local.LAYOUT).write_bytes(local.seal(msgspec.json.encode({"saved": SAVED})))
    (tmp_path / local.BOOT).write_text("now\n")
    return tmp_path


def flips(path: Path) -> Iterator[None]:
    """The file with each of its bits changed in turn."""
    data = path.read_bytes()
    for index in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :])
            yield
    path.write_bytes(data)


@pytest.mark.parametrize("name", [local.STATE, local.LAYOUT, local.BOOT])
def test_any_bit_that_changes_is_refused_or_changes_nothing(directory: Path, name: str) -> None:
    right = local.read_state(str(directory), "now")
    for _ in flips(directory / name):
        answer: object
        try:
            answer = local.read_state(str(directory), "now")
        except Failure as failure:
            answer = (failure.code, str(failure).partition(": ")[0])
        assert answer in (right, (78, f"cannot use {directory}/{local.STATE}"))


@pytest.mark.parametrize("name", [local.STATE, local.LAYOUT, local.BOOT])
def test_commands_of_an_administrator_read_it_in_the_same_way(
    directory: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Procfs, "boot_id", lambda _: "now")
    reader = ConfDir(directory, Procfs())
    right = reader._read()
    assert isinstance(right, PoolsFile)
    for _ in flips(directory / name):
        answer: object
        try:
            answer = reader._read()
        except StateError as error:
            answer = str(error).partition(": ")[0]
        assert answer in (right, f"cannot use {directory}/{local.STATE}")


@pytest.mark.parametrize("left", [b"", b"\0" * 400, b'{"saved":'])
def test_after_a_power_cut_the_layout_is_there_and_no_task(directory: Path, left: bytes) -> None:
    (directory / local.STATE).write_bytes(left)
    state = local.read_state(str(directory), "next")
    assert (state["saved"], state["tasks"], state["moving"]) == (json.loads(msgspec.json.encode(SAVED)), [], {})


def test_what_a_power_cut_has_damaged_is_made_anew_by_the_next_start(host: Host) -> None:
    before = json.loads(host.ok("describe"))
    (host.directory / local.STATE).write_bytes(b"")
    (host.directory / local.BOOT).write_text("another boot\n")
    host.ok("isolate", "--pool=exclusive", "true")
    assert json.loads(host.ok("describe")) == before


def test_a_start_does_not_risk_the_layout(host: Host) -> None:
    """pools.json is replaced without fsync at each start; the layout is in a file that no start touches."""
    before = (host.directory / local.LAYOUT).stat()
    host.ok("isolate", "--pool=infra", "true")
    after = (host.directory / local.LAYOUT).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_directory_of_an_older_version_gets_its_layout_synced_by_the_first_start_of_a_boot(host: Host) -> None:
    for name in (local.LAYOUT, local.BOOT):
        (host.directory / name).unlink()
    path = host.directory / local.STATE
    path.write_text(json.dumps({**local.read_sealed(str(path)), "boot": "another"}))
    host.ok("isolate", "--pool=infra", "true")
    assert local.read_sealed(str(host.directory / local.LAYOUT))["saved"] == local.read_sealed(str(path))["saved"]


def test_damage_within_a_boot_is_mended_by_reconcile_without_losing_an_owner(host: Host) -> None:
    with host.isolated("--pool=exclusive"):
        (host.directory / local.STATE).write_bytes(b"")
        refused = host.run("isolate", "--pool=exclusive", "true")
        assert (refused.returncode, "cmk reconcile makes it anew" in refused.stderr) == (78, True)
        done = host.run("reconcile")
        assert (done.returncode, "made it anew" in done.stderr) == (0, True)
        assert host.run("isolate", "--pool=exclusive", "true").returncode == 75
