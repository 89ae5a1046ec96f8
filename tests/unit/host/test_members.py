import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmk.host import members
from cmk.host.members import descendants, processes_beside, search_members
from cmk.host.pauses import without_pause
from cmk.host.peer import open_process
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.tasks import Process

ALL = frozenset(os.sched_getaffinity(0))
ONE = frozenset({min(ALL)})
PLACE = PodContainer("0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "ab" * 32)


@contextmanager
def process(cpus: frozenset[int]) -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as child:
        os.sched_setaffinity(child.pid, cpus)
        try:
            yield child.pid
        finally:
            child.kill()


@pytest.fixture
def procfs(tmp_path: Path) -> Procfs:
    return Procfs(tmp_path)


def enter(procfs: Procfs, pid: int, place: PodContainer = PLACE) -> None:
    """Show a real process in a procfs of our own, as a member of a pod."""
    (procfs.root / str(pid)).mkdir()
    (procfs.root / str(pid) / "stat").symlink_to(f"/proc/{pid}/stat")
    (procfs.root / str(pid) / "task").symlink_to(f"/proc/{pid}/task")
    (procfs.root / str(pid) / "cgroup").write_text(f"0::/kubepods/pod{place.pod}/{place.container}\n")


def test_a_process_confined_to_the_task_s_cpus_is_a_member(procfs: Procfs) -> None:
    with process(ONE) as inside, process(ALL) as outside:
        enter(procfs, inside)
        enter(procfs, outside)
        assert [member.pid for member in search_members(procfs, PLACE, ONE, []).members] == [inside]


def test_a_process_of_another_container_is_no_member(procfs: Procfs) -> None:
    with process(ONE) as pid:
        enter(procfs, pid, PodContainer(PLACE.pod, "cd" * 32))
        assert search_members(procfs, PLACE, ONE, []).members == []


def test_a_process_confined_to_another_task_s_cpus_is_no_member(procfs: Procfs) -> None:
    with process(ONE) as pid:
        enter(procfs, pid)
        assert search_members(procfs, PLACE, ONE, [ONE]).members == []


def test_no_process_is_looked_at_when_those_of_another_task_cannot_be_told_apart() -> None:
    assert search_members(Procfs(Path("/nowhere")), PLACE, ONE, [frozenset(), ALL]) == ([], True)


def test_outside_pods_there_are_no_members() -> None:
    assert search_members(Procfs(), PodContainer(), ALL, []).members == []


def test_a_process_that_ends_during_the_scan_is_no_member(procfs: Procfs) -> None:
    (procfs.root / "999999").mkdir()
    assert search_members(procfs, PLACE, ONE, []).members == []


def test_descendants_are_children_and_their_children() -> None:
    # By pid: a child that has not become its program yet still goes by its parent's name.
    line = "sh -c 'sleep 60 & echo $$ $!; wait' & wait"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        started = {int(word) for word in parent.stdout.readline().split()}
        procfs = Procfs()
        try:
            first = procfs.process(parent.pid)
            below = without_pause(descendants(procfs, [first], set()))
            *_, last = sorted(below)
            others = without_pause(descendants(procfs, [first], {last.pid}))
        finally:
            os.killpg(parent.pid, 9)
    assert {process.pid for process in below} == started
    assert others == [process for process in below if process != last]


def test_a_search_for_descendants_can_pause_at_every_process(procfs: Procfs) -> None:
    with process(ALL) as first, process(ALL) as second:
        enter(procfs, first)
        enter(procfs, second)
        assert sum(1 for _ in descendants(procfs, [], set())) == 2


def test_a_process_that_has_ended_has_no_descendants() -> None:
    assert without_pause(descendants(Procfs(), [Process(os.getpid(), 1)], set())) == []


@pytest.mark.skipif(len(ALL) < 2, reason="takes two CPUs")
def test_processes_beside_the_owner_are_those_that_may_also_run_elsewhere() -> None:
    with process(ALL) as owner, process(ALL) as beside, process(ONE) as confined, process(ALL - ONE) as elsewhere:
        pids = [owner, beside, confined, elsewhere, 2**22 + 1]
        assert processes_beside(Procfs(), pids, owner, ONE) == [(beside, Procfs().name(beside))]


LEADERLESS = """
import ctypes, os, sys, threading
number = {"x86_64": 60, "aarch64": 93}[os.uname().machine]
held = threading.Thread(target=sys.stdin.read)
held.start()
print(flush=True)
ctypes.CDLL(None).syscall(number, 0)
"""


@pytest.fixture
def leaderless() -> Iterator[int]:
    """A process whose first thread has ended while another runs."""
    with subprocess.Popen([sys.executable, "-c", LEADERLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        while Procfs().first_thread_runs(child.pid):
            os.sched_yield()
        yield child.pid
        child.kill()


def test_a_process_whose_first_thread_has_ended_is_alive_and_a_member(procfs: Procfs, leaderless: int) -> None:
    enter(procfs, leaderless)
    for tid in Procfs().threads(leaderless):
        os.sched_setaffinity(tid, ONE)
    member = Procfs().process(leaderless)
    assert Procfs().is_alive(member)
    assert search_members(procfs, PLACE, ONE, []).members == [member]


def test_the_pidfd_of_a_process_is_quiet_while_any_thread_runs(leaderless: int) -> None:
    peer = open_process(Procfs(), Procfs().process(leaderless))
    assert not peer.has_ended()
    os.kill(leaderless, 9)
    select.select([peer.pidfd], [], [])
    os.close(peer.pidfd)


def test_the_container_of_a_process_is_that_of_a_living_thread(tmp_path: Path) -> None:
    for directory, container in (("42", ""), ("42/task/42", ""), ("42/task/43", f"/kubepods/pod{PLACE.pod}/{PLACE.container}")):
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
        (tmp_path / directory / "cgroup").write_text(f"5:cpuset:{container or '/'}\n")
    (tmp_path / "42/stat").write_text("42 (x) Z " + " ".join(map(str, range(4, 53))))
    assert Procfs(tmp_path).pod_container(42) == PLACE


def test_a_member_is_found_although_a_thread_of_it_has_ended(procfs: Procfs, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(ONE) as pid:
        enter(procfs, pid)
        monkeypatch.setattr(procfs, "threads", lambda _: [2**22 + 1, pid])
        assert [member.pid for member in search_members(procfs, PLACE, ONE, []).members] == [pid]


def test_a_member_in_a_group_below_its_container_is_one(procfs: Procfs) -> None:
    with process(ONE) as pid:
        enter(procfs, pid)
        (procfs.root / str(pid) / "cgroup").write_text(f"0::/kubepods/pod{PLACE.pod}/{PLACE.container}/below/it\n")
        assert [member.pid for member in search_members(procfs, PLACE, ONE, []).members] == [pid]


def test_a_search_during_which_processes_keep_ending_is_not_certain(procfs: Procfs) -> None:
    (procfs.root / "999999").mkdir()
    assert search_members(procfs, PLACE, ONE, []) == ([], False)


def test_a_child_of_a_process_that_ends_during_the_search_is_found(procfs: Procfs, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(ONE) as pid:
        enter(procfs, pid)
        listings = iter([[2**22 + 1], [pid]])
        monkeypatch.setattr(procfs, "pids", lambda: next(listings))
        assert [member.pid for member in search_members(procfs, PLACE, ONE, []).members] == [pid]


def test_a_child_of_a_process_of_which_its_remains_are_left_is_found(procfs: Procfs, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(ONE) as ended, process(ONE) as child:
        os.kill(ended, 9)
        while Procfs().first_thread_runs(ended):
            os.sched_yield()
        enter(procfs, ended, PodContainer("", ""))  # as cgroup v1 has it
        enter(procfs, child)
        listings = iter([[ended], [ended, child]])
        monkeypatch.setattr(procfs, "pids", lambda: next(listings))
        assert [member.pid for member in search_members(procfs, PLACE, ONE, []).members] == [child]


def test_remains_that_nobody_waits_for_leave_no_doubt(procfs: Procfs) -> None:
    with process(ONE) as ended:
        os.kill(ended, 9)
        while Procfs().first_thread_runs(ended):
            os.sched_yield()
        enter(procfs, ended)
        assert search_members(procfs, PLACE, ONE, []) == ([], True)


def test_another_process_that_gets_the_pid_during_the_look_is_no_member(procfs: Procfs, monkeypatch: pytest.MonkeyPatch) -> None:
    with process(ONE) as pid:
        enter(procfs, pid)
        masks = iter([ONE])
        monkeypatch.setattr(members, "mask_of", lambda _: next(masks, ALL))
        assert search_members(procfs, PLACE, ONE, []) == ([], True)
