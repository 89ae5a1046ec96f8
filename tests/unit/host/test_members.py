import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmk.host.members import descendants, find_members, processes_beside
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
        assert [member.pid for member in find_members(procfs, PLACE, ONE, [])] == [inside]


def test_a_process_of_another_container_is_no_member(procfs: Procfs) -> None:
    with process(ONE) as pid:
        enter(procfs, pid, PodContainer(PLACE.pod, "cd" * 32))
        assert find_members(procfs, PLACE, ONE, []) == []


def test_a_process_confined_to_another_task_s_cpus_is_no_member(procfs: Procfs) -> None:
    with process(ONE) as pid:
        enter(procfs, pid)
        assert find_members(procfs, PLACE, ONE, [ONE]) == []


def test_outside_pods_there_are_no_members() -> None:
    assert find_members(Procfs(), PodContainer(), ALL, []) == []


def test_a_process_that_ends_during_the_scan_is_no_member(procfs: Procfs) -> None:
    (procfs.root / "999999").mkdir()
    assert find_members(procfs, PLACE, ONE, []) == []


def test_descendants_are_children_and_their_children() -> None:
    # By pid: a child that has not become its program yet still goes by its parent's name.
    line = "sh -c 'sleep 60 & echo $$ $!; wait' & wait"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        started = {int(word) for word in parent.stdout.readline().split()}
        procfs = Procfs()
        try:
            below = descendants(procfs, procfs.process(parent.pid))
        finally:
            os.killpg(parent.pid, 9)
    assert {process.pid for process in below} == started


def test_a_process_that_has_ended_has_no_descendants() -> None:
    assert descendants(Procfs(), Process(os.getpid(), 1)) == []


@pytest.mark.skipif(len(ALL) < 2, reason="takes two CPUs")
def test_processes_beside_the_owner_are_those_that_may_also_run_elsewhere() -> None:
    with process(ALL) as owner, process(ALL) as beside, process(ONE) as confined, process(ALL - ONE) as elsewhere:
        pids = [owner, beside, confined, elsewhere, 2**22 + 1]
        assert processes_beside(Procfs(), pids, owner, ONE) == [(beside, Procfs().name(beside))]
