"""Changes of pools under a real process of two threads; tests/property/test_journal.py kills changes everywhere. Takes two CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cmk.host import journal, state
from cmk.host.journal import ChangeError, Journal, JournaledChange
from cmk.host.members import Search
from cmk.host.pauses import Pausing, without_pause
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.model.cgroup_path import PodContainer
from cmk.model.config import Section
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.plan import plan
from cmk.model.tasks import Process, Task
from cmk.model.topology import Topology

CPUS = sorted(os.sched_getaffinity(0))[:2]
FIRST, SECOND = (frozenset({cpu}) for cpu in CPUS)
NONE = frozenset({4000})  # beyond every machine that runs these tests
TWO_THREADS = """
import os, sys, threading
os.sched_setaffinity(0, {int(sys.argv[1])})
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


def saved(exclusive: frozenset[int]) -> SavedLayout:
    pools = {"exclusive": Pool("exclusive", True, (CpuList(exclusive, 0),)), "infra": Pool("infra", False, ())}
    return SavedLayout(Layout(pools), Section({}, f"on {min(exclusive)}"), "default", Topology(()))


def saved_shared(shared: frozenset[int]) -> SavedLayout:
    pools = {"shared": Pool("shared", False, (CpuList(shared, 0),)), "infra": Pool("infra", False, ())}
    return SavedLayout(Layout(pools), Section({}, f"on {min(shared)}"), "default", Topology(()))


NAME = str(CPUS[0])
OLD, NEW, IMPOSSIBLE = saved(FIRST), saved(SECOND), saved(NONE)


def _found(members: list[Process], *, is_certain: bool) -> Pausing[Search]:
    yield
    return Search(members, is_certain)


class Host:
    """A task on the first CPU, a journal, and what was written of layout and tasks."""

    def __init__(self, root: Path, pid: int) -> None:
        self.path = root / "journal.json"
        self.task = Task(Procfs().process(pid), "exclusive", (OLD.layout.pools["exclusive"].lists[0].name,))
        self.written: list[tuple[SavedLayout, list[Process]]] = []
        self.changer = JournaledChange(self.path, self._write, Procfs())

    def _write(self, layout: SavedLayout, tasks: list[Task]) -> None:
        self.written.append((layout, [task.process for task in tasks]))

    def start(self, new: SavedLayout) -> None:
        """A change that is interrupted right after its journal was written."""
        self.changer.start(OLD, new, plan(OLD.layout, new.layout, [self.task]))

    def masks(self) -> set[frozenset[int]]:
        pid = self.task.process.pid
        return {frozenset(os.sched_getaffinity(tid)) for tid in Procfs().threads(pid)}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    command = [sys.executable, "-c", TWO_THREADS, str(min(FIRST))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield Host(tmp_path, process.pid)
        process.kill()


def test_a_change_during_which_processes_of_a_task_cannot_be_listed_is_undone(host: Host, tmp_path: Path) -> None:
    before = host.masks()
    changer = JournaledChange(host.path, host._write, Procfs(), lambda _task, _cpus: _found([], is_certain=False))
    with pytest.raises(ChangeError, match="a process that ends before it can be looked at"):
        changer.finish(changer.start(OLD, NEW, plan(OLD.layout, NEW.layout, [host.task])))
    assert (host.masks(), host.written) == (before, [(OLD, [host.task.process])])
    assert not host.path.exists()


def test_a_change_moves_every_thread_writes_the_new_state_and_leaves_no_journal(host: Host) -> None:
    change = host.changer.start(OLD, NEW, plan(OLD.layout, NEW.layout, [host.task]))
    assert state.read(host.path, Journal) == change.journal
    (task,) = host.changer.finish(change)
    assert (task.process, task.generation, host.masks()) == (host.task.process, 2, {SECOND})
    assert host.written == [(NEW, [host.task.process])]
    assert not host.path.exists()


@pytest.mark.parametrize("resumed", [False, True])
def test_what_a_task_leaves_while_the_change_is_under_way_moves_with_it(host: Host, resumed: bool) -> None:
    """Outside pods it is no descendant any more, and found on the old CPUs alone."""
    with subprocess.Popen(["sleep", "60"]) as left:
        os.sched_setaffinity(left.pid, FIRST)
        listed: list[Process] = []

        def find_family(_: Task, cpus: frozenset[int]) -> Pausing[Search]:
            return _found([process for process in listed if os.sched_getaffinity(process.pid) <= cpus], is_certain=True)

        changer = JournaledChange(host.path, host._write, Procfs(), find_family)
        change = changer.start(OLD, NEW, plan(OLD.layout, NEW.layout, [host.task]))
        listed.append(Procfs().process(left.pid))
        changer.resume() if resumed else changer.finish(change)
        assert host.masks() == {frozenset(os.sched_getaffinity(left.pid))} == {SECOND}
        left.kill()


def test_a_change_that_the_kernel_refuses_is_undone_and_says_why(host: Host) -> None:
    change = host.changer.start(OLD, IMPOSSIBLE, plan(OLD.layout, IMPOSSIBLE.layout, [host.task]))
    with pytest.raises(ChangeError, match=f"process {host.task.process.pid}, thread .* refused by the kernel"):
        host.changer.finish(change)
    assert host.masks() == {FIRST}
    assert host.written == [(OLD, [host.task.process])]
    assert not host.path.exists()


def test_an_interrupted_change_is_finished(host: Host) -> None:
    host.start(NEW)
    resumed = host.changer.resume()
    assert resumed is not None
    assert (resumed[0].new, resumed[1]) == (NEW, "")
    assert (host.masks(), host.written) == ({SECOND}, [(NEW, [host.task.process])])


def test_an_interrupted_change_that_the_kernel_refuses_is_undone_and_the_reason_returned(host: Host) -> None:
    host.start(IMPOSSIBLE)
    resumed = host.changer.resume()
    assert resumed is not None
    assert "refused by the kernel" in resumed[1]
    assert (host.masks(), host.written) == ({FIRST}, [(OLD, [host.task.process])])


def test_an_interrupted_change_can_be_undone(host: Host) -> None:
    host.start(NEW)
    assert host.changer.undo_interrupted([host.task])
    assert (host.masks(), host.written, host.path.exists()) == ({FIRST}, [(OLD, [host.task.process])], False)


def test_a_task_that_has_other_lists_by_now_is_not_moved_when_a_change_is_undone(host: Host) -> None:
    host.start(NEW)
    for tid in Procfs().threads(host.task.process.pid):
        os.sched_setaffinity(tid, SECOND)
    again = msgspec.structs.replace(host.task, lists=("9999",))
    assert host.changer.undo_interrupted([again])
    assert host.masks() == {SECOND}


def test_without_a_journal_there_is_nothing_to_resume_or_undo(host: Host) -> None:
    assert host.changer.resume() is None
    assert not host.changer.undo_interrupted([host.task])
    assert host.written == []


def test_the_journal_of_another_boot_means_the_new_layout_without_tasks(host: Host) -> None:
    host.start(NEW)
    journal = state.read(host.path, Journal)
    assert journal is not None
    state.write(host.path, msgspec.structs.replace(journal, boot="another"), durable=False)
    assert host.changer.resume() is not None
    assert (host.masks(), host.written) == ({FIRST}, [(NEW, [])])


def test_threads_that_the_kernel_widened_after_the_change_are_narrowed(host: Host) -> None:
    change = host.changer.start(OLD, NEW, plan(OLD.layout, NEW.layout, [host.task]))
    host.changer.finish(change)
    for tid in Procfs().threads(host.task.process.pid):
        os.sched_setaffinity(tid, FIRST | SECOND)
    without_pause(host.changer.narrow_masks(change))
    assert host.masks() == {SECOND}


def test_a_journal_that_cannot_be_written_starts_nothing(host: Host) -> None:
    (host.path.parent / ".journal.json.new").mkdir()
    with pytest.raises(StateError, match="cannot write"):
        host.start(NEW)
    assert (host.masks(), host.path.exists()) == ({FIRST}, False)


def test_tasks_of_a_container_that_go_the_same_way_are_looked_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = [saved_shared(cpus) for cpus in (FIRST, SECOND)]
    places = [PodContainer("a", "a1"), PodContainer("a", "a2"), PodContainer("b", "b1")]
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(12)]
    try:
        tasks = []
        for number, sleeper in enumerate(sleepers):
            os.sched_setaffinity(sleeper.pid, FIRST)
            place = places[number % 3]
            tasks.append(Task(Procfs().process(sleeper.pid), "shared", (NAME,), place.pod, place.container))
        searches: list[PodContainer] = []

        def search(_: Procfs, container: PodContainer, *_rest: object) -> Pausing[Search]:
            searches.append(container)
            return Search([], is_certain=True)
            yield

        monkeypatch.setattr(journal, "search_with_pauses", search)
        changer = JournaledChange(tmp_path / "journal.json", lambda *_: None, Procfs())
        change = changer.start(*shared, plan(shared[0].layout, shared[1].layout, tasks))
        changer.finish(change)
        assert searches == places * 2  # before the move, and after it
        assert {frozenset(os.sched_getaffinity(sleeper.pid)) for sleeper in sleepers} == {SECOND}
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def test_a_change_is_undone_also_when_a_task_has_come_to_a_pool_that_would_have_gone(tmp_path: Path) -> None:
    """In direct mode cmk isolate allocates on the old layout until the next command undoes what was interrupted."""
    gone = Pool("gone", True, (CpuList(NONE, 0),))
    old = msgspec.structs.replace(OLD, layout=Layout(OLD.layout.pools | {"gone": gone}))
    with subprocess.Popen(["sleep", "60"]) as moving:
        os.sched_setaffinity(moving.pid, FIRST)
        task = Task(Procfs().process(moving.pid), "exclusive", (NAME,))
        changer = JournaledChange(tmp_path / "journal.json", lambda *_: None, Procfs())
        changer.start(old, NEW, plan(old.layout, NEW.layout, [task]))
        come = Task(Process(7, 1), "gone", (gone.lists[0].name,))
        assert changer.undo_interrupted([task, come])
        assert os.sched_getaffinity(moving.pid) == FIRST
        moving.kill()


@pytest.mark.parametrize(("new", "saved_after"), [(NEW, NEW), (IMPOSSIBLE, OLD)])
def test_what_was_booked_during_an_interrupted_change_stays_booked(
    host: Host, new: SavedLayout, saved_after: SavedLayout
) -> None:
    since = Task(Process(7, 1), "infra", ("9",))
    changer = JournaledChange(host.path, host._write, Procfs(), read_booked=lambda: [since])
    host.start(new)
    assert changer.resume() is not None
    # That the moved task was not written last is no proof that it has ended: the next agent looks for it.
    assert host.written == [(saved_after, [host.task.process, since.process])]


def test_a_task_whose_list_another_was_given_during_an_interrupted_change_has_ended(host: Host) -> None:
    ended = Task(Process(7, 1), "kept", ("4000",))
    kept = Pool("kept", True, (CpuList(NONE, 0),))
    old, new = (msgspec.structs.replace(each, layout=Layout({**each.layout.pools, "kept": kept})) for each in (OLD, NEW))
    since = msgspec.structs.replace(ended, process=Process(8, 1))
    changer = JournaledChange(host.path, host._write, Procfs(), read_booked=lambda: [host.task, since])
    changer.start(old, new, plan(old.layout, new.layout, [host.task, ended]))
    assert changer.resume() is not None
    assert host.written == [(new, [host.task.process, since.process])]


def test_a_task_that_has_other_lists_by_now_is_not_narrowed(host: Host) -> None:
    change = host.changer.start(OLD, NEW, plan(OLD.layout, NEW.layout, [host.task]))
    host.changer.finish(change)
    for tid in Procfs().threads(host.task.process.pid):
        os.sched_setaffinity(tid, FIRST | SECOND)
    answers = iter([True])
    without_pause(host.changer.narrow_masks(change, lambda _: next(answers, False)))
    assert host.masks() == {FIRST | SECOND}
