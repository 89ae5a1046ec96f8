"""Whom a change of pools moves with a task, and who stands in its way."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cmk.direct.pools import ConfDir
from cmk.host.procfs import Procfs
from cmk.isolate import family
from cmk.isolate.family import Relative
from cmk.model.choice import Refused
from cmk.model.layout import Layout
from tests.fabricate import fabricate
from tests.unit.conftest import Host


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def move_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[list[int]]) -> None:
    """Move an owner to the other core while one look after the other finds these processes on its core."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    fabricate(tmp_path / "root", {str(first): 0, str(second): 0, "7000": 0})
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=2", "--num-shared-cores=0")
    state, looks = ConfDir(host.directory, Procfs()), iter(seen)

    def find(_: str, __: bool, wanted: list[object], *___: object, **____: object) -> tuple[list[list[Relative]], bool]:
        pids = next(looks, seen[-1]) if wanted else []
        return [[Relative({"pid": pid, "start": Procfs().start_time(pid)}, {first}) for pid in pids] for _ in wanted], True

    with host.isolated("--pool=exclusive") as owner:
        now = state.saved()
        assert now is not None
        exclusive = now.layout.pools["exclusive"]
        other = msgspec.structs.replace(exclusive, lists=exclusive.lists[1:])
        wanted = msgspec.structs.replace(now, layout=Layout(now.layout.pools | {"exclusive": other}))
        ledger, _ = state.ledger(now)
        monkeypatch.setattr(family, "find", find)
        state.move(ledger, now, wanted)
        assert os.sched_getaffinity(owner.pid) == {second}


def test_a_process_that_a_task_has_started_since_the_last_look_is_no_stranger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: int
) -> None:
    move_while(tmp_path, monkeypatch, [[], [sleeper]])


def test_a_process_of_which_nothing_tells_whose_it_is_stands_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: int
) -> None:
    with pytest.raises(Refused, match=f"process {sleeper} runs on CPUs .* and nothing tells whose it is"):
        move_while(tmp_path, monkeypatch, [[sleeper], []])


def test_a_process_that_ends_between_two_looks_stands_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeper: int
) -> None:
    monkeypatch.setattr(Procfs, "is_alive", lambda _, process: process.pid != sleeper)
    move_while(tmp_path, monkeypatch, [[sleeper], []])
