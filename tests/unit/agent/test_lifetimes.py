"""When a task has ended: real processes, and pidfds that tell of their end."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from cmk.agent import lifetimes
from cmk.agent.ends import Ends
from cmk.agent.lifetimes import TaskLifetimes
from cmk.host import peer
from cmk.host.members import Search
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model.tasks import Process, Task
from tests.unit.agent.harness import POD, Node, on_node


class Watch:
    """Lifetimes of tasks. ``members`` are what the next search for a task's processes finds, ``searched`` the tasks it was for."""

    def __init__(self) -> None:
        self.ended: list[Process] = []
        self.members: list[Process] = []
        self.news = asyncio.Event()
        self.searched: list[Task] = []
        self.is_certain = True
        self.fault: OSError | None = None
        self.lifetimes = TaskLifetimes(Procfs(), self._on_end, self._members_of)

    def _on_end(self, process: Process) -> None:
        self.ended.append(process)
        self.news.set()

    def _members_of(self, task: Task) -> Search:
        self.searched.append(task)
        members, self.members = self.members, []
        self.news.set()
        if self.fault:
            raise self.fault
        return Search(members, self.is_certain)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for an end, or a search, that makes the condition true."""
        async with asyncio.timeout(20):
            while not condition():
                self.news.clear()
                await self.news.wait()


class Sleeper:
    """A process of the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.process = Procfs().process(process.pid)
        self.task = Task(self.process, "exclusive", ("1",), "pod", "container")

    def pidfd(self) -> int:
        return os.pidfd_open(self.process.pid)

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def with_two(scenario: Callable[[Watch, Sleeper, Sleeper], Awaitable[None]]) -> None:
    """Run a scenario with two processes."""

    async def run() -> None:
        watch = Watch()
        first, second = [Sleeper(await asyncio.create_subprocess_exec("sleep", "60")) for _ in range(2)]
        try:
            await scenario(watch, first, second)
        finally:
            watch.lifetimes.close()
            await first.end()
            await second.end()

    asyncio.run(run())


def fail(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_task_ends_with_its_process() -> None:
    async def scenario(watch: Watch, first: Sleeper, second: Sleeper) -> None:
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.lifetimes.watch(second.task, second.pidfd())
        await first.end()
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_a_task_ends_with_the_last_process_that_it_has_left_on_its_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.members = [left.process]
        await first.end()
        await watch.until(lambda: watch.searched == [first.task])
        assert watch.ended == []
        await left.end()
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_nothing_can_be_left_of_a_pid_namespace_whose_init_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        monkeypatch.setattr(Procfs, "is_namespace_init", lambda *_: True)
        watch.lifetimes.watch(first.task, first.pidfd())
        await first.end()
        await watch.until(lambda: watch.ended == [first.process])
        assert watch.searched == []

    with_two(scenario)


def test_a_sweep_sees_an_end_before_the_event_loop_does(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        pidfd = first.pidfd()
        watch.lifetimes.watch(first.task, pidfd)
        os.kill(first.process.pid, signal.SIGKILL)
        select.select([pidfd], [], [])
        watch.lifetimes.sweep()
        assert watch.ended == [first.process]

    with_two(scenario)


def test_a_process_that_is_watched_already_has_its_latest_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        watch.lifetimes.watch(first.task, first.pidfd())
        second, latest = first.pidfd(), msgspec.structs.replace(first.task, pool="shared")
        watch.lifetimes.watch(latest, second)
        assert not is_open(second)
        await first.end()
        await watch.until(lambda: watch.ended == [first.process])
        assert watch.searched == [latest]

    with_two(scenario)


def test_a_task_of_an_earlier_agent_is_adopted_while_its_process_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, second: Sleeper) -> None:
        assert watch.lifetimes.adopt(first.task)
        await second.end()
        assert not watch.lifetimes.adopt(second.task)
        await first.end()
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_a_task_whose_pid_was_used_again_is_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        earlier = Process(first.process.pid, first.process.start - 1)
        assert not watch.lifetimes.adopt(msgspec.structs.replace(first.task, process=earlier))

    with_two(scenario)


def test_a_task_is_adopted_while_a_process_that_it_has_left_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        await first.end()
        watch.members = [left.process]
        assert watch.lifetimes.adopt(first.task)
        await left.end()
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_a_task_goes_on_while_it_is_uncertain_whether_it_has_left_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        monkeypatch.setattr(lifetimes, "LAST_PAUSE", 0)
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.is_certain = False
        await first.end()
        await watch.until(lambda: len(watch.searched) > 1)
        assert watch.ended == []
        watch.is_certain = True
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_of_many_processes_that_a_task_has_left_one_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Process] = []

    def open_process(procfs: Procfs, process: Process) -> Peer:
        opened.append(process)
        return peer.open_process(procfs, process)

    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        other = Sleeper(await asyncio.create_subprocess_exec("sleep", "60"))
        try:
            watch.lifetimes.watch(first.task, first.pidfd())
            monkeypatch.setattr(lifetimes, "open_process", open_process)
            watch.members = [left.process, other.process]
            await first.end()
            await watch.until(lambda: watch.searched == [first.task])
            assert opened == [left.process]
            watch.members = [other.process]
            await left.end()
            await watch.until(lambda: len(watch.searched) == 2)
            assert opened == [left.process, other.process]
            assert watch.ended == []
            await other.end()
            await watch.until(lambda: watch.ended == [first.process])
        finally:
            await other.end()

    with_two(scenario)


def test_processes_that_end_at_once_are_searched_for_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        monkeypatch.setattr(lifetimes, "FIRST_PAUSE", 3600)
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.members = [left.process]
        await first.end()
        await watch.until(lambda: watch.searched == [first.task])
        pidfd = left.pidfd()
        await left.end()
        select.select([pidfd], [], [])
        os.close(pidfd)
        watch.lifetimes.sweep()
        assert watch.searched == [first.task]
        assert watch.ended == []

    with_two(scenario)


def test_after_a_long_search_no_task_of_its_pod_is_searched_for_until_it_has_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, second: Sleeper) -> None:
        monkeypatch.setattr(lifetimes, "LONG_SEARCH", -1)
        monkeypatch.setattr(lifetimes, "REST", 1e9)
        watch.is_certain = False
        other = msgspec.structs.replace(first.task, process=Process(7, 7), pod="other")
        adopted = msgspec.structs.replace(first.task, process=Process(8, 8))
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.lifetimes.watch(second.task, second.pidfd())
        await first.end()
        await watch.until(lambda: watch.searched == [first.task])
        pidfd = second.pidfd()
        await second.end()
        select.select([pidfd], [], [])
        os.close(pidfd)
        watch.lifetimes.sweep()
        assert [watch.lifetimes.adopt(task) for task in (adopted, other)] == [True, True]
        assert watch.searched == [first.task, other]
        assert watch.ended == []

    with_two(scenario)


def test_a_pod_that_has_rested_is_searched_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, second: Sleeper) -> None:
        monkeypatch.setattr(lifetimes, "LONG_SEARCH", -1)
        watch.is_certain = False
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.lifetimes.watch(second.task, second.pidfd())
        await first.end()
        await watch.until(lambda: watch.searched == [first.task])
        watch.is_certain = True
        await second.end()
        await watch.until(lambda: sorted(watch.ended) == sorted([first.process, second.process]))

    with_two(scenario)


@pytest.mark.parametrize("has_lists", [False, True], ids=["its first lists", "asked for again"])
def test_a_process_with_lists_of_its_own_does_not_hold_those_of_the_task_that_it_was_left_by(has_lists: bool) -> None:
    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        if has_lists:
            watch.lifetimes.watch(left.task, left.pidfd())
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.members = [left.process]
        await first.end()
        await watch.until(lambda: watch.searched == [first.task])
        watch.lifetimes.watch(left.task, left.pidfd())
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_a_task_goes_on_while_no_descriptor_is_free_to_look_for_its_processes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        monkeypatch.setattr(lifetimes, "LAST_PAUSE", 0)
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.fault = OSError(errno.EMFILE, "Too many open files")
        await first.end()
        await watch.until(lambda: len(watch.searched) > 3)
        assert watch.ended == []
        assert len(caplog.records) == 1
        watch.fault = None
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


@pytest.mark.parametrize(("of", "call"), [(os, "pidfd_open"), (Ends, "add")])
def test_a_task_goes_on_while_a_process_that_it_has_left_cannot_be_watched(
    monkeypatch: pytest.MonkeyPatch, of: object, call: str
) -> None:
    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        monkeypatch.setattr(lifetimes, "LAST_PAUSE", 0)
        watch.lifetimes.watch(first.task, first.pidfd())
        watch.members = [left.process]
        with monkeypatch.context() as patch:
            patch.setattr(of, call, fail)
            os.kill(first.process.pid, signal.SIGKILL)
            watch.lifetimes.sweep()
            while not watch.searched:
                watch.lifetimes.sweep()
        assert watch.ended == []
        watch.members = [left.process]
        await watch.until(lambda: len(watch.searched) > 1)
        assert watch.ended == []
        await left.end()
        await watch.until(lambda: watch.ended == [first.process])

    with_two(scenario)


def test_a_task_that_the_kernel_cannot_watch_is_not_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        pidfd = first.pidfd()
        with monkeypatch.context() as patch:
            patch.setattr(Ends, "add", fail)
            with pytest.raises(OSError, match="No space left"):
                watch.lifetimes.watch(first.task, pidfd)
            before = list(Path("/proc/self/fd").iterdir())
            with pytest.raises(OSError, match="No space left"):
                watch.lifetimes.adopt(first.task)
        assert list(Path("/proc/self/fd").iterdir()) == before
        watch.lifetimes.close()
        assert is_open(pidfd)
        os.close(pidfd)

    with_two(scenario)


def test_another_process_with_the_pid_does_not_tell_what_ends_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, left: Sleeper) -> None:
        pidfd = first.pidfd()
        await first.end()
        monkeypatch.setattr(Procfs, "is_namespace_init", lambda *_: True)  # of the one that has the pid now
        watch.members = [left.process]
        watch.lifetimes.watch(first.task, pidfd)
        await watch.until(lambda: watch.searched == [first.task])
        assert watch.ended == []

    with_two(scenario)


def test_a_closed_watch_has_closed_its_pidfds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(watch: Watch, first: Sleeper, _: Sleeper) -> None:
        pidfd = first.pidfd()
        watch.lifetimes.watch(first.task, pidfd)
        watch.lifetimes.close()
        assert not is_open(pidfd)

    with_two(scenario)


@pytest.mark.usefixtures("clients_in_pod", "own_affinity")
def test_the_list_of_a_killed_process_is_free(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            await client.kill()
            await node.until(lambda: not node.tasks("exclusive"))

    on_node(tmp_path, scenario)


@pytest.mark.usefixtures("clients_in_pod", "own_affinity")
def test_an_orphan_on_the_core_keeps_it_taken(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            orphan = await client.orphan()
            await client.kill()
            async with await node.ask(timeout=600) as second:
                assert "error 75" in (await second.answer())[0]
            os.kill(orphan, signal.SIGKILL)
            await node.until(lambda: not node.tasks("exclusive"))

    on_node(tmp_path, scenario)


@pytest.mark.usefixtures("clients_in_pod", "own_affinity")
def test_a_new_agent_sees_the_orphans_of_a_dead_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Node(tmp_path, [POD])
        first.start()
        async with await first.ask() as client:
            await client.answer()
            orphan = await client.orphan()
            first.service.stop()
            await client.kill()
            second = Node(tmp_path)
            second.start()
            assert second.tasks("exclusive") == [client.pid]
            os.kill(orphan, signal.SIGKILL)
            await second.until(lambda: not second.tasks("exclusive"))
            second.service.stop()

    asyncio.run(scenario())
