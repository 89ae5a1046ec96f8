"""Cores stay taken while anybody of their owner's family runs on them, and no longer; tasks of other pid namespaces are left alone."""

from __future__ import annotations

import json
import os
import posix
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cmk.isolate import family, local
from cmk.isolate.say import Failure
from tests.fabricate import fabricate
from tests.property.fakehost import FakeHost, FakeProcess
from tests.unit.conftest import Host, until
from tests.unit.isolate.test_local import rewrite

FIRST_THREAD_ENDS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
print("started", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def daemon(host: Host) -> Iterator[tuple[Host, int]]:
    """A process whose parent, which took the core, has ended."""
    pid = int(host.ok("isolate", "--pool=exclusive", "sh", "--", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"))
    try:
        yield host, pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)


def test_a_daemon_keeps_the_core_of_the_process_that_started_it(daemon: tuple[Host, int]) -> None:
    host, pid = daemon
    done = host.run("isolate", "--pool=exclusive", "true")
    assert (done.returncode, f"by process {pid}, left by process " in done.stderr) == (75, True)
    again = host.run("isolate", "--pool=exclusive", "true")
    assert again.stderr == done.stderr
    os.kill(pid, 9)
    until(lambda: host.run("isolate", "--pool=exclusive", "true").returncode == 0)


@pytest.mark.parametrize("command", ["describe", "reconcile"])
def test_a_daemon_is_the_holder_for_all_commands(daemon: tuple[Host, int], command: str) -> None:
    host, pid = daemon
    host.ok(command)
    (shown,) = json.loads(host.ok("describe"))["pools"]["exclusive"]["cpuLists"].values()
    assert shown["tasks"] == [pid]
    assert f"processes {pid} still run" in host.run("uninstall").stderr


def test_an_owner_whose_first_thread_has_ended_keeps_its_core(host: Host) -> None:
    command = host.command("isolate", "--pool=exclusive", sys.executable, "--", "-c", FIRST_THREAD_ENDS)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=host.environment(), stdin=pipe, stdout=pipe, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "started\n"
        until(lambda: Path(f"/proc/{owner.pid}/stat").read_text().rsplit(") ", 1)[1][0] == "Z")
        assert host.run("isolate", "--pool=exclusive", "true").returncode == 75
        assert owner.stdin is not None
        owner.stdin.close()
    assert host.run("isolate", "--pool=exclusive", "true").returncode == 0


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    """Two shells, 100 and 102, that began before all else."""
    made = FakeHost(tmp_path, frozenset({0, 1}))
    for _ in range(2):
        made.start(1)
    made.ticks += 1
    return made


def find(fake: FakeHost, first: dict[str, int], parent: int, *, surely: bool = False) -> list[int]:
    found: list[int] = []

    def look() -> None:
        (relatives,), _ = family.find(str(fake.proc), True, [(frozenset({0}), first, parent)], {}, surely=surely)
        found.extend(relative.process["pid"] for relative in relatives)

    fake.run(100, look)
    return found


def test_the_family_is_whom_the_owner_has_started_and_nobody_of_another_session(fake: FakeHost) -> None:
    owner = fake.start(100, frozenset({0}))
    first = {"pid": owner.pid, "start": owner.start}
    child = fake.start(owner.pid)
    grandchild = fake.start(child.pid)
    fake.start(child.pid, frozenset({0, 1}))  # it has left
    fake.start(102, frozenset({0}))  # of the other shell
    fake.end(child.pid)
    fake.end(owner.pid)
    assert find(fake, first, 100) == [grandchild.pid]


def test_when_the_owners_parent_has_ended_it_may_be_anybody_younger(fake: FakeHost) -> None:
    owner = fake.start(100, frozenset({0}))
    orphan = fake.start(owner.pid)
    fake.end(owner.pid)
    stranger = fake.start(102, frozenset({0}))
    fake.end(100)
    fake.start(1)
    first = {"pid": owner.pid, "start": owner.start}
    fake.processes[100] = fake.processes[102]
    assert find(fake, first, 98) == [orphan.pid, stranger.pid]
    assert find(fake, first, 98, surely=True) == [orphan.pid]


def test_who_ends_while_it_is_looked_at_may_have_started_another_and_the_rest_is_looked_at_once(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = fake.start(100, frozenset({0}))
    child = fake.start(owner.pid)
    fake.end(owner.pid)
    looked: list[str] = []
    grandchildren: list[int] = []

    def threads(_procfs: str, name: str, _since: int) -> list[str]:
        looked.append(name)
        if name == str(child.pid):
            grandchildren.append(fake.start(child.pid).pid)
            fake.end(child.pid)
            raise ProcessLookupError
        return [name]

    monkeypatch.setattr(family, "_threads", threads)
    assert find(fake, {"pid": owner.pid, "start": owner.start}, 100) == grandchildren
    assert {name: looked.count(name) for name in ("100", "102")} == {"100": 1, "102": 1}


def task_of(owner: FakeProcess) -> dict[str, Any]:
    return {
        "process": {"pid": owner.pid, "start": owner.start},
        "pool": "exclusive",
        "lists": ["0"],
        "on_move": {"how": "follow", "signal": 0},
        "parent": owner.parent,
        "left_by": None,
    }


def heirs(fake: FakeHost, task: dict[str, Any], others: dict[int, frozenset[int]]) -> list[dict[str, Any] | None]:
    found: list[dict[str, Any] | None] = []
    fake.run(100, lambda: found.extend(family.heirs(str(fake.proc), True, [(frozenset({0}), task)], others)))
    return found


def test_a_core_stays_the_owners_while_processes_end_before_they_are_looked_at(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chain of processes each of which starts the next one and ends."""
    owner = fake.start(100, frozenset({0}))
    last = [fake.start(owner.pid)]
    fake.end(owner.pid)

    def threads(_procfs: str, name: str, _since: int) -> list[str]:
        if name == str(last[0].pid):
            before, last[0] = last[0], fake.start(last[0].pid)
            fake.end(before.pid)
            raise ProcessLookupError
        return [name]

    monkeypatch.setattr(family, "_threads", threads)
    task = task_of(owner)
    assert heirs(fake, task, {}) == [{**task, "left_by": task["process"]}]


@pytest.mark.parametrize(("state", "flags"), [("Z", 0), ("R", 0x4)])
def test_the_child_of_a_process_that_ends_is_looked_for_after_it(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch, state: str, flags: int
) -> None:
    owner = fake.start(100, frozenset({0}))
    child = fake.start(owner.pid)
    fake.end(owner.pid)
    path = fake.proc / f"{child.pid}/stat"
    fields = path.read_text().split()
    fields[3], fields[9] = state, str(flags)
    path.write_text(" ".join(fields))
    started: list[int] = []

    def threads(_procfs: str, name: str, _since: int) -> list[str]:
        if name == str(child.pid) and not started:
            started.append(fake.start(child.pid).pid)
        return [name]

    monkeypatch.setattr(family, "_threads", threads)
    assert find(fake, {"pid": owner.pid, "start": owner.start}, 100) == started


def test_numbers_that_are_handed_out_during_a_look_are_looked_at_as_well(fake: FakeHost) -> None:
    owner = fake.start(100, frozenset({0}))
    last = [fake.start(owner.pid)]
    fake.end(owner.pid)
    answers: list[bool] = []

    def look() -> None:
        asked = posix.sched_getaffinity

        def get(tid: int) -> set[int]:
            if tid == last[0].pid and len(fake.processes) < 9:
                before, last[0] = last[0], fake.start(last[0].pid)
                fake.start(1)  # it stays
                fake.end(before.pid)
            return asked(tid)

        with mock.patch.object(posix, "sched_getaffinity", get):
            first = {"pid": owner.pid, "start": owner.start}
            answers.append(local.ProcessTable(str(fake.proc)).may_have_family(first, frozenset({0})))

    fake.run(100, look)
    assert answers == [True]


def test_a_child_that_has_a_task_of_its_own_and_stays_on_the_core_leaves_it_the_owners(fake: FakeHost) -> None:
    """It has asked with --no-affinity."""
    owner = fake.start(100, frozenset({0}))
    child = fake.start(owner.pid)
    task = task_of(owner)
    fake.end(owner.pid)
    assert heirs(fake, task, {child.pid: frozenset({1})}) == [{**task, "left_by": task["process"]}]
    fake.end(child.pid)
    assert heirs(fake, task, {}) == [None]


def test_all_of_a_family_are_found_although_another_process_ends_during_the_look(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = fake.start(100, frozenset({0}))
    first, second = fake.start(owner.pid), fake.start(owner.pid)
    seen: list[str] = []

    def threads(_procfs: str, name: str, _since: int) -> list[str]:
        seen.append(name)
        if name == str(second.pid) and seen.count(name) == 1:
            raise ProcessLookupError
        return [name]

    monkeypatch.setattr(family, "_threads", threads)
    assert find(fake, {"pid": owner.pid, "start": owner.start}, 100) == [owner.pid, first.pid, second.pid]


def test_a_process_whose_threads_each_start_the_next_and_end_is_found(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = fake.start(100, frozenset({0}))
    child = fake.start(owner.pid)
    fake.end(owner.pid)
    states = iter([family._ENDS, family._ENDS, family._RUNS])
    tids = iter([["901"], ["902"], ["903"]])
    real, state = family._threads, family._state
    monkeypatch.setattr(family, "_threads", lambda p, name, since: next(tids) if name == str(child.pid) else real(p, name, since))
    monkeypatch.setattr(family, "_state", lambda p, tid: next(states) if tid.startswith("90") else state(p, tid))
    process = fake._process
    monkeypatch.setattr(fake, "_process", lambda tid: child if tid > 900 else process(tid))
    assert find(fake, {"pid": owner.pid, "start": owner.start}, 100) == [child.pid]


@pytest.mark.parametrize(("numbers", "found"), [("150 1", True), ("150 7", False)])
def test_an_orphan_that_came_to_the_init_of_a_pid_namespace_is_family(fake: FakeHost, numbers: str, found: bool) -> None:
    init = fake.start(1)
    fake.ticks += 1
    owner = fake.start(100, frozenset({0}))
    child = fake.start(init.pid, frozenset({0}))
    (fake.proc / f"{init.pid}/status").write_text(f"Name:\tx\nNSpid:\t{numbers}\n")
    assert find(fake, {"pid": owner.pid, "start": owner.start}, 100) == [owner.pid] + [child.pid] * found


def test_two_ended_tasks_do_not_pass_to_one_process(fake: FakeHost) -> None:
    owner = fake.start(100, frozenset({0}))
    fake.start(owner.pid)
    task = task_of(owner)
    fake.end(owner.pid)
    found: list[dict[str, Any] | None] = []
    both = [(frozenset({0}), task), (frozenset({0, 1}), task)]
    fake.run(100, lambda: found.extend(family.heirs(str(fake.proc), True, both, {})))
    assert [heir and heir["process"] for heir in found] == [{"pid": owner.pid + 2, "start": owner.start}, task["process"]]


def test_who_has_a_child_with_a_task_on_its_core_cannot_give_that_up(tmp_path: Path) -> None:
    """A process has one task: with another one it could not hold the core for the child."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    fabricate(tmp_path / "root", {str(first): 0, str(second): 0, "7000": 0})
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=1", "--num-shared-cores=1")
    child = shlex.join(host.command("isolate", "--pool=shared", "--no-affinity", "sh", "--", "-c", "echo started; exec sleep 60"))
    again = shlex.join(host.command("isolate", "--pool=shared", "true"))
    line = host.command("isolate", "--pool=exclusive", "sh", "--", "-c", f"{child} & read line; exec {again}")
    pipe = subprocess.PIPE
    with subprocess.Popen(
        line, env=host.environment(), stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as owner:
        try:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "started\n"
            assert owner.stdin is not None
            owner.stdin.write("go on\n")
            owner.stdin.close()
            assert owner.wait(60) == 75
            assert owner.stderr is not None
            assert "processes that it has started may still run on the core that it gives up" in owner.stderr.readline()
            done = host.run("isolate", "--pool=exclusive", "true")
            assert (done.returncode, f"left by process {owner.pid}" in done.stderr) == (75, True)
        finally:
            os.killpg(owner.pid, 9)


def test_a_time_namespace_is_refused(fake: FakeHost) -> None:
    """There, the start times of others are not theirs."""
    (fake.proc / "100/ns/time").symlink_to("time:[9]")
    with pytest.raises(Failure, match="time namespace"):
        fake.run(100, lambda: local.ProcessTable(str(fake.proc)))


def test_threads_of_a_process_that_is_older_than_the_owner_are_not_looked_at(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.end_first_thread(100)  # it has a second one
    owner = fake.start(102, frozenset({0}))
    child = fake.start(owner.pid)
    fake.end_first_thread(child.pid)
    fake.end(owner.pid)
    listed: list[str] = []
    listdir = os.listdir

    def record(path: str) -> list[str]:
        listed.append(str(path).removeprefix(f"{fake.proc}"))
        return listdir(path)

    monkeypatch.setattr("posix.listdir", record)
    assert find(fake, {"pid": owner.pid, "start": owner.start}, 102) == [child.pid]
    assert set(listed) == {"", f"/{child.pid}/task"}


@pytest.mark.parametrize(("most", "later", "is_looked_for"), [(32768, 10, False), (32768, 1000, True), (4194304, 1000, False)])
def test_nobody_is_looked_for_when_no_number_since_is_on_the_core(
    fake: FakeHost, most: int, later: int, is_looked_for: bool
) -> None:
    """Unless the numbers may have gone round meanwhile."""
    owner = fake.start(100, frozenset({0}))
    fake.start(102)
    fake.end(owner.pid)
    fake.ticks += later
    (fake.proc / "sys/kernel/pid_max").write_text(f"{most}\n")
    found: list[bool] = []
    first = {"pid": owner.pid, "start": owner.start}
    fake.run(100, lambda: found.append(local.ProcessTable(str(fake.proc)).may_have_family(first, frozenset({0}))))
    assert found == [is_looked_for]


def test_threads_of_the_kernel_are_nobodys(tmp_path: Path) -> None:
    fake = FakeHost(tmp_path, frozenset({0, 1}))
    thread = fake.start(1, frozenset({0}))
    path = fake.proc / f"{thread.pid}/stat"
    fields = path.read_text().split()
    fields[3 + 6] = str(0x00200000)
    path.write_text(" ".join(fields))
    assert find(fake, {"pid": 50, "start": 1}, 1) == []


def test_tasks_of_another_pid_namespace_are_refused(host: Host, fake: FakeHost) -> None:
    """Their numbers mean nothing here: each would look as if it had ended."""
    with host.isolated("--pool=exclusive"):
        pid = fake.start(100).pid
        rewrite(host, {"boot": "boot", "pidns": "pid:[8]"})

        def isolate() -> None:
            local.isolate(str(host.directory), "infra", 1, -1, pin=False, seconds=0, procfs=str(fake.proc))

        with pytest.raises(Failure, match=r"another pid namespace, pid:\[8\] \(here is pid:\[7\]\).*--pid=host") as raised:
            fake.run(pid, isolate)
        assert raised.value.code == 78
        rewrite(host, {"boot": "another"})
        assert fake.run(pid, isolate)


def test_an_owner_that_procfs_does_not_show_runs(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid, procfs shows an unprivileged user neither the first process nor those of others."""
    pid = fake.start(100).pid
    alive: list[bool] = []
    (fake.proc / "1").rename(fake.proc / "hidden")
    for error in (PermissionError(), None, ProcessLookupError()):

        def kill(_pid: int, _number: int, error: Exception | None = error) -> None:
            if error:
                raise error

        monkeypatch.setattr(family.posix, "kill", kill)
        fake.run(pid, lambda: alive.append(local.ProcessTable(str(fake.proc)).is_running({"pid": 4711, "start": 1})))
    assert alive == [True, True, False]
