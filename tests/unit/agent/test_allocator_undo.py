"""What an allocation that fails, or whose agent is killed, leaves to the process: nothing, or lists that it holds until it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from pathlib import Path

import msgspec
import pytest

from cmk.agent.allocator import Allocator, Waiting
from cmk.agent.files import StateFiles
from cmk.host.affinity import AffinityError, Pinning
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.wire import Isolate
from tests.unit.agent.harness import EXCLUSIVE, LAYOUT, PLACE, SHARED, Node, on_node, options_in, text_of
from tests.unit.agent.workloads import LIST, Workload, allocator_in, handed_over, later, on_allocator, saved

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")


def pin_in_vain(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let pins fail once the process is on the CPUs, where it stays."""
    real = Pinning.pin

    def fail(pinning: Pinning) -> None:
        real(pinning)
        raise error

    monkeypatch.setattr(Pinning, "pin", fail)
    monkeypatch.setattr(Pinning, "undo", lambda _: False)


def test_a_process_whose_pin_cannot_be_undone_holds_its_lists_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        with monkeypatch.context() as patch:
            pin_in_vain(patch, AffinityError("it keeps starting threads"))
            with pytest.raises(AffinityError):
                allocator.isolate(Isolate("exclusive"), first.peer)
        os.close(first.peer.pidfd)  # as the server does after a refusal
        assert isinstance(allocator.isolate(LIST, second.peer), Waiting)
        assert saved(tmp_path) == [(first.peer.pid, "exclusive")]
        await first.end()
        assert "CMK_CPUS_ASSIGNED" in await later(allocator, second)

    on_allocator(tmp_path, scenario)


def test_a_process_whose_pin_cannot_be_undone_holds_its_lists_also_while_no_descriptor_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        errors: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
        with monkeypatch.context() as patch:
            pin_in_vain(patch, OSError(errno.EMFILE, "Too many open files"))
            patch.setattr(os, "dup", fail)
            patch.setattr(os, "pidfd_open", fail)
            with pytest.raises(OSError, match="Too many"):
                allocator.isolate(Isolate("exclusive"), first.peer)
        assert isinstance(allocator.isolate(LIST, second.peer), Waiting)
        await first.end()
        assert "CMK_CPUS_ASSIGNED" in await later(allocator, second)
        assert errors == []

    on_allocator(tmp_path, scenario)


def test_a_process_that_may_be_on_two_cores_holds_both_until_it_ends_also_with_the_next_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Pool("exclusive-non-isolcpus", True, (CpuList(SHARED, 0),))
    layout = Layout(LAYOUT.pools | {other.name: other})
    wanted = Isolate(other.name, affinity=False)

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        assert isinstance(allocator.isolate(LIST, first.peer), dict)
        with monkeypatch.context() as patch:
            pin_in_vain(patch, AffinityError("it keeps starting threads"))
            with pytest.raises(AffinityError):
                allocator.isolate(Isolate(other.name), first.peer)
        tasks = StateFiles(options_in(tmp_path), Procfs()).read_tasks().tasks
        following = allocator_in(tmp_path, layout)
        try:
            for agent in allocator, following:
                if agent is following:
                    assert following.adopt(reversed(tasks)) == []
                for command in LIST, wanted:
                    assert isinstance(agent.isolate(command, second.peer), Waiting)
                assert [task.process.pid for task in agent.ledger.tasks.values()] == 2 * [first.peer.pid]
            await first.end()
            async with asyncio.timeout(20):
                while allocator.ledger.tasks or following.ledger.tasks:
                    await asyncio.sleep(0.01)
        finally:
            following.close()

    on_allocator(tmp_path, scenario, layout)


def test_a_move_to_a_shared_pool_whose_pin_cannot_be_undone_leaves_the_core_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        assert isinstance(allocator.isolate(Isolate("exclusive"), first.peer), dict)
        with monkeypatch.context() as patch:
            pin_in_vain(patch, AffinityError("it keeps starting threads"))
            with pytest.raises(AffinityError):
                allocator.isolate(Isolate("shared"), Peer(first.peer.pid, os.dup(first.peer.pidfd)))
        assert saved(tmp_path) == [(first.peer.pid, "exclusive")]

    on_allocator(tmp_path, scenario)


def test_a_child_that_is_started_during_a_pin_that_fails_holds_the_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask("shared", affinity=0) as client:
            await client.answer()
            child = await client.orphan()

            def pin(pinning: Pinning) -> None:
                real(pinning)
                os.sched_setaffinity(child, EXCLUSIVE)  # what a child inherits that is started now
                raise AffinityError("it keeps starting threads")

            real = Pinning.pin
            with monkeypatch.context() as patch:
                patch.setattr(Pinning, "pin", pin)
                assert "it keeps starting threads" in (await client.again(text_of("exclusive")))[0]
            assert node.tasks("shared") == node.tasks("exclusive") == [client.pid]
            assert {"exclusive", "shared"} <= {pool for _, pool in saved(tmp_path)}
            os.kill(child, signal.SIGKILL)
            await node.until(lambda: not node.tasks("exclusive"))
            assert node.tasks("shared") == [client.pid]

    on_node(tmp_path, scenario)


def test_a_process_with_two_tasks_is_moved_to_the_second(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        os.sched_setaffinity(first.peer.pid, EXCLUSIVE)
        assert allocator.adopt(handed_over(allocator, first)) == []
        assert os.sched_getaffinity(first.peer.pid) == SHARED
        assert saved(tmp_path) == [(first.peer.pid, "shared")]
        assert isinstance(allocator.isolate(LIST, second.peer), dict)
        await first.end()

    on_allocator(tmp_path, scenario)


def test_a_process_with_two_tasks_that_cannot_be_moved_keeps_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Pinning) -> None:
        raise AffinityError("it keeps starting threads")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        os.sched_setaffinity(first.peer.pid, EXCLUSIVE)
        with monkeypatch.context() as patch:
            patch.setattr(Pinning, "pin", fail)
            assert allocator.adopt(handed_over(allocator, first)) == []
        assert f"process {first.peer.pid} keeps the lists that it was about to give up" in caplog.text
        assert os.sched_getaffinity(first.peer.pid) == EXCLUSIVE
        assert saved(tmp_path) == [(first.peer.pid, "exclusive")]
        assert isinstance(allocator.isolate(LIST, second.peer), Waiting)
        await first.end()
        assert "CMK_CPUS_ASSIGNED" in await later(allocator, second)

    on_allocator(tmp_path, scenario)


def test_a_process_with_two_tasks_that_keeps_the_first_holds_the_core_on_which_it_has_been_set_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Pinning) -> None:
        raise AffinityError("it keeps starting threads")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        core, shared = handed_over(allocator, first)
        shared = msgspec.structs.replace(shared, container=core.container)
        monkeypatch.setattr(Procfs, "pod_container", lambda *_: PLACE)
        monkeypatch.setattr(Procfs, "pids_in", lambda *_: [pid for pid in [first.peer.pid] if Path(f"/proc/{pid}").exists()])
        os.sched_setaffinity(first.peer.pid, EXCLUSIVE)
        with monkeypatch.context() as patch:
            patch.setattr(Pinning, "pin", fail)
            assert allocator.adopt([shared, core]) == []
        assert saved(tmp_path) == [(first.peer.pid, "shared"), (first.peer.pid, "exclusive")]
        assert isinstance(allocator.isolate(LIST, second.peer), Waiting)
        await first.end()
        assert "CMK_CPUS_ASSIGNED" in await later(allocator, second)

    on_allocator(tmp_path, scenario)


def test_a_process_with_two_tasks_of_which_the_layout_lacks_the_first_has_the_second(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        before, task = handed_over(allocator, first)
        os.sched_setaffinity(first.peer.pid, EXCLUSIVE)
        assert allocator.adopt([msgspec.structs.replace(before, pool="gone"), task]) == []
        assert os.sched_getaffinity(first.peer.pid) == SHARED
        assert saved(tmp_path) == [(first.peer.pid, "shared")]

    on_allocator(tmp_path, scenario)


def test_a_process_with_two_tasks_of_which_the_layout_lacks_both_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        tasks = [msgspec.structs.replace(task, pool=f"no {task.pool}") for task in handed_over(allocator, first)]
        assert allocator.adopt(tasks) == []
        assert saved(tmp_path) == []
        assert [record.message.split(": ")[1].split(" lists")[0] for record in caplog.records] == [
            "pool no exclusive",
            "pool no shared",
        ]
        assert isinstance(allocator.isolate(LIST, second.peer), dict)

    on_allocator(tmp_path, scenario)


def test_of_a_process_with_two_tasks_that_has_ended_nothing_is_left(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        tasks = handed_over(allocator, first)
        await first.end()
        assert allocator.adopt(tasks) == tasks[1:]
        assert not allocator.ledger.tasks
        assert saved(tmp_path) == []

    on_allocator(tmp_path, scenario)
