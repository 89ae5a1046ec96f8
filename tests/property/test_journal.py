"""A change of pools that is killed at any system call or write, or refused by the kernel at any, leaves the old state or the new one."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings

from cmk.agent.files import StateFiles
from cmk.agent.options import Options
from cmk.host import state
from cmk.host.journal import ChangeError, JournaledChange
from cmk.host.procfs import Procfs
from cmk.model.config import Section
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, SavedLayout
from cmk.model.order import NoRoomError, ordered_steps
from cmk.model.plan import cpus_of, plan
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task, TasksFile
from cmk.model.topology import Topology
from tests.property.test_plan import changes, swaps

Case = tuple[Layout, Layout, list[Task], list[Pod]]
SLOW = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


class Killed(BaseException):
    """kill -9, as seen from inside."""


class Host:
    """Processes of one thread each in a fabricated procfs: the first of a task on all its CPUs, a second one on one of them."""

    def __init__(self, root: Path, old: Layout, new: Layout, tasks: list[Task]) -> None:
        self.root = root
        self.old, self.new = (
            SavedLayout(layout, Section({}, name), name, Topology(())) for layout, name in ((old, "a"), (new, "b"))
        )
        self.tasks = tasks
        self.masks: dict[int, CpuSet] = {}
        self.task_of: dict[int, Task] = {}
        self.calls, self.die_at, self.refuse_at = 0, -1, -1
        self.writes = 0
        self.full: Callable[[int], bool] = lambda _: False
        (root / "proc/sys/kernel/random").mkdir(parents=True)
        (root / "proc/sys/kernel/random/boot_id").write_text("boot\n")
        for task in tasks:
            cpus = cpus_of(old, task)
            self._add(task.process.pid, task, cpus)
            self._add(task.process.pid + 1000, task, frozenset({min(cpus)}))
        (root / "run").mkdir()
        self.options = Options("n", "ns", "c", "h", root, root / "run", root, root)
        state.write(self.options.layout_file, self.old, durable=False)
        state.write(self.options.tasks_file, TasksFile("boot", tasks), durable=False)
        self.before = dict(self.masks)
        self.parked: set[Process] = set()
        with suppress(NoRoomError):
            self.parked = {step.process for step in ordered_steps(plan(old, new, tasks), old, new) if not step.last}

    def _add(self, pid: int, task: Task, mask: CpuSet) -> None:
        directory = self.root / f"proc/{pid}"
        (directory / f"task/{pid}").mkdir(parents=True)
        (directory / "stat").write_text(f"{pid} (x) S {'0 ' * 18}1 0\n")
        (directory / "cgroup").write_text(f"0::/kubepods/pod{task.pod}/{task.container}\n")
        self.masks[pid], self.task_of[pid] = mask, task

    def change(self) -> JournaledChange:
        return StateFiles(self.options, Procfs(self.root / "proc")).change()

    @contextmanager
    def kernel(self) -> Iterator[None]:
        """Within this context affinities are those of the fabricated processes, and calls are counted."""
        replace = state.replace

        def counted(*args: object, **more: object) -> None:
            self._count()
            self.writes += 1
            if self.full(self.writes):
                raise state.StateError("No space left on device")
            replace(*args, **more)  # type: ignore[arg-type]
            self._count()

        with (
            mock.patch.object(os, "sched_getaffinity", lambda pid: set(self.masks[pid])),
            mock.patch.object(os, "sched_setaffinity", self._set),
            mock.patch.object(state, "replace", counted),
        ):
            yield

    def _set(self, pid: int, cpus: CpuSet) -> None:
        self._count()
        if self.calls == self.refuse_at:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.masks[pid] = frozenset(cpus)
        self._check()

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.die_at:
            raise Killed

    def _check(self) -> None:
        """A task on a list of an exclusive pool is alone there, unless it is only parked."""
        for pid, mask in self.masks.items():
            task = self.task_of[pid]
            mine = cpus_of(self.old.layout, task) | cpus_of(self.new.layout, self._after(task))
            if self.new.layout.pools[task.pool].exclusive and mask <= mine and task.process not in self.parked:
                for other, others in self.masks.items():
                    assert self.task_of[other].process == task.process or not mask & others, (pid, mask, other, others)

    def _after(self, task: Task) -> Task:
        moves = plan(self.old.layout, self.new.layout, self.tasks).moves
        return next(
            (msgspec.structs.replace(task, lists=move.lists) for move in moves if move.task.process == task.process), task
        )

    def assert_consistent(self) -> str:
        """Files and threads agree; returns which layout holds."""
        saved = state.read(self.options.layout_file, SavedLayout)
        tasks = state.read(self.options.tasks_file, TasksFile)
        assert saved is not None
        assert tasks is not None
        assert not self.options.journal_file.exists()
        assert {task.process for task in tasks.tasks} == {task.process for task in self.tasks}
        for task in tasks.tasks:
            cpus = cpus_of(saved.layout, task)
            assert self.masks[task.process.pid] == cpus
            second = self.masks[task.process.pid + 1000]
            assert second <= cpus
            assert len(second) == 1, "never flattened"
        if saved == self.old:
            assert self.masks == self.before
        return saved.scope


@contextmanager
def host(case: Case) -> Iterator[Host]:
    old, new, tasks, _ = case
    # The names of containers are short in the plan's tests; here they have to be what cgroups call them.
    uid = "0000000{}-1111-2222-3333-444444444444"
    tasks = [
        msgspec.structs.replace(task, pod=uid.format(task.pod[1:]), container=f"{task.container.encode().hex():0>64}")
        for task in tasks
    ]
    # Hundreds of durable writes: in memory they cost nothing.
    with tempfile.TemporaryDirectory(prefix="cmk", dir="/dev/shm") as directory:
        yield Host(Path(directory), old, new, tasks)


def attempt(node: Host) -> None:
    planned = plan(node.old.layout, node.new.layout, node.tasks)
    assume(planned.moves)
    try:
        changer = node.change()
        changer.finish(changer.start(node.old, node.new, planned))
    except NoRoomError:
        assume(False)


@SLOW
@given(changes() | swaps(), st.integers(0, 40))
def test_the_next_agent_ends_a_change_that_was_killed_anywhere(case: Case, die_at: int) -> None:
    with host(case) as node, node.kernel():
        node.die_at = die_at
        try:
            attempt(node)
        except Killed:
            node.die_at = -1
            node.change().resume()
        assert node.assert_consistent() in "ab"


@SLOW
@given(swaps(), st.integers(5, 18), st.integers(0, 40))
def test_a_change_that_is_refused_anywhere_is_undone_also_when_the_undoing_is_killed(
    case: Case, refuse_at: int, die_at: int
) -> None:
    with host(case) as node, node.kernel():
        node.refuse_at, node.die_at = refuse_at, die_at
        try:
            attempt(node)
        except ChangeError:
            assert node.assert_consistent() == "a"
            return
        except Killed:
            node.die_at = -1
            try:
                node.change().resume()
            except ChangeError:
                pytest.fail("resume() returns the reason and does not raise it")
        assert node.assert_consistent() in "ab"


@SLOW
@given(swaps(), st.integers(1, 5), st.booleans())
def test_a_full_disk_leaves_the_old_state_at_once_or_when_there_is_room(case: Case, number: int, for_ever: bool) -> None:
    with host(case) as node, node.kernel():
        node.full = (lambda now: now >= number) if for_ever else (lambda now: now == number)
        try:
            attempt(node)
        except ChangeError:
            assert node.assert_consistent() == "a"
            return
        except state.StateError:
            node.full = lambda _: False
            node.change().resume()
        assert node.assert_consistent() in "ab"


@SLOW
@given(swaps())
def test_a_reboot_during_a_change_leaves_the_new_layout_and_no_tasks(case: Case) -> None:
    with host(case) as node, node.kernel():
        node.die_at = 5
        with pytest.raises(Killed):
            attempt(node)
        node.die_at = -1
        (node.root / "proc/sys/kernel/random/boot_id").write_text("another\n")
        node.change().resume()
        tasks = state.read(node.options.tasks_file, TasksFile)
        assert tasks is not None
        assert (tasks.boot, tasks.tasks) == ("another", [])
        assert state.read(node.options.layout_file, SavedLayout) == node.new
