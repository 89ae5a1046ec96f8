"""Allocation for real processes: ledger, affinity, notices and task file in step, and what a request waits for."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from functools import partial
from pathlib import Path

import pytest

from cmk.agent import allocator as allocator_module
from cmk.agent.allocator import Allocator, Waiting
from cmk.agent.ends import Ends
from cmk.agent.files import StateFiles
from cmk.host.notify import Notifier
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.choice import Refused
from cmk.model.wire import Isolate
from tests.unit.agent.harness import EXCLUSIVE, POD, SHARED, Node, on_node, options_in, text_of
from tests.unit.agent.workloads import LIST, Workload, handed_over, on_allocator

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")


def test_a_request_for_a_taken_list_waits_until_it_is_released(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        assert isinstance(allocator.isolate(LIST, first.peer), dict)
        waiting = allocator.isolate(LIST, second.peer)
        assert isinstance(waiting, Waiting)
        assert waiting.reason == "Not enough free cpu lists in pool exclusive: 1 asked, 0 of 1 free"
        later = asyncio.create_task(allocator.isolate_later(LIST, second.peer, waiting, partial(asyncio.sleep, 0)))
        await first.end()
        assert "CMK_CPUS_ASSIGNED" in await asyncio.wait_for(later, 20)

    on_allocator(tmp_path, scenario)


def test_a_request_is_worth_another_attempt_at_once_when_the_owner_has_ended_unseen(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        assert isinstance(allocator.isolate(LIST, first.peer), dict)
        os.kill(first.peer.pid, signal.SIGKILL)
        select.select([first.peer.pidfd], [], [])
        assert isinstance(allocator.isolate(LIST, second.peer), Waiting)
        assert not allocator.ledger.tasks

    on_allocator(tmp_path, scenario)


@pytest.mark.parametrize(
    ("path", "place"), [(PodContainer(), PodContainer("own")), (PodContainer("p", "c"), PodContainer("p", "c"))]
)
def test_an_agent_whose_cgroup_names_no_pod_takes_the_uid_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: PodContainer, place: PodContainer
) -> None:
    monkeypatch.setattr(Procfs, "pod_container", lambda *_: path)

    async def scenario(allocator: Allocator, _first: Workload, _second: Workload) -> None:
        allocator.join("infra", "own")
        assert allocator.ledger.open_in_containers() == {place: SHARED}

    on_allocator(tmp_path, scenario)


def test_a_peer_that_has_ended_gets_nothing_not_even_under_a_pid_used_again(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        await first.end()
        with pytest.raises(ProcessLookupError):
            allocator.isolate(LIST, Peer(second.peer.pid, first.peer.pidfd))
        assert not allocator.ledger.tasks

    on_allocator(tmp_path, scenario)


def test_a_process_in_cgroups_of_two_pods_is_refused_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(_: Procfs, __: int) -> PodContainer:
        raise MixedCgroupsError("two pods")

    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        monkeypatch.setattr(Procfs, "pod_container", mixed)
        with pytest.raises(Refused, match="two pods") as refusal:
            allocator.isolate(LIST, first.peer)
        assert refusal.value.final

    on_allocator(tmp_path, scenario)


def test_an_error_that_nobody_expects_undoes_the_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Notifier, "write_notice", fail)
            with pytest.raises(RuntimeError):
                allocator.isolate(LIST, first.peer)
        assert isinstance(allocator.isolate(LIST, second.peer), dict)

    on_allocator(tmp_path, scenario)


def test_an_allocation_that_cannot_be_undone_ends_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        errors: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
        with monkeypatch.context() as patch:
            patch.setattr(Notifier, "write_notice", fail)
            with pytest.raises(RuntimeError):
                allocator.isolate(LIST, first.peer)
            assert errors == []
            patch.setattr(Notifier, "remove_notice", fail)
            with pytest.raises(RuntimeError):
                allocator.isolate(LIST, first.peer)
            assert errors == ["a bug"]

    on_allocator(tmp_path, scenario)


def test_an_end_that_cannot_be_booked_ends_the_agent_also_when_a_request_comes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        errors: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context["exception"])))
        allocator.isolate(LIST, first.peer)
        os.kill(first.peer.pid, signal.SIGKILL)
        select.select([first.peer.pidfd], [], [])
        monkeypatch.setattr(Notifier, "remove_notice", fail)
        with pytest.raises(RuntimeError):
            allocator.isolate(LIST, second.peer)
        assert errors == ["a bug"]

    on_allocator(tmp_path, scenario)


def test_a_process_that_the_kernel_cannot_watch_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        before = os.sched_getaffinity(first.peer.pid)
        with monkeypatch.context() as patch:
            patch.setattr(Ends, "add", fail)
            with pytest.raises(OSError, match="No space left"):
                allocator.isolate(Isolate("exclusive"), first.peer)
        assert os.sched_getaffinity(first.peer.pid) == before
        assert isinstance(allocator.isolate(LIST, second.peer), dict)
        os.close(first.peer.pidfd)

    on_allocator(tmp_path, scenario)


def test_a_task_that_the_kernel_cannot_watch_is_not_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Ends, "add", fail)
            with pytest.raises(OSError, match="No space left"):
                allocator.adopt(handed_over(allocator, first)[:1])
        assert not allocator.ledger.tasks
        os.close(first.peer.pidfd)

    on_allocator(tmp_path, scenario)


def test_a_client_is_pinned_and_told_its_cpus(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            reply, cpus = await client.answer()
            assert cpus == EXCLUSIVE
            assert reply.splitlines()[:2] == ["cmk/1 ok", f"CMK_CPUS_ASSIGNED={max(EXCLUSIVE)}"]
            assert node.tasks("exclusive") == [client.pid]

    on_node(tmp_path, scenario)


def test_without_affinity_the_list_is_taken_but_nothing_pinned(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, EXCLUSIVE | SHARED)  # what the client inherits
        async with await node.ask(affinity=0) as client:
            os.sched_setaffinity(0, before)
            assert (await client.answer())[1] == EXCLUSIVE | SHARED
            assert node.tasks("exclusive") == [client.pid]

    on_node(tmp_path, scenario)


def test_a_second_client_waits_for_the_first_to_end(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask() as second:
                await node.waiting(1)
                assert node.tasks("exclusive") == [first.pid]
                await first.kill()
                assert (await second.answer())[0].startswith("cmk/1 ok")
                assert node.tasks("exclusive") == [second.pid]

    on_node(tmp_path, scenario)


def test_a_full_pool_is_refused_at_the_deadline_with_the_reason(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask(timeout=600) as second:
                text = (await second.answer())[0]
                assert text == (
                    "cmk/1 error 75\n1 cores of pool exclusive asked, pod ns/web already holds 1 of its 1 "
                    "(cmk.intel.com/exclusive-cores); waited 0.6 s"
                )

    on_node(tmp_path, scenario)


def test_an_unknown_pod_is_asked_for_at_once(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        limits = {"resources": {"limits": {"cmk.intel.com/exclusive-cores": "1"}}}
        node.listed = [{"metadata": {"uid": POD.uid, "namespace": "ns", "name": "web"}, "spec": {"containers": [limits]}}]
        async with await node.ask() as client:
            assert (await client.answer())[0].startswith("cmk/1 ok")
            assert node.listings == 1

    on_node(tmp_path, scenario, pods=[])


def test_a_pod_that_stays_unknown_is_refused_for_now(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask(timeout=600) as client:
            reply = (await client.answer())[0]
            assert reply.startswith(f"cmk/1 error 75\npod {POD.uid} is not known yet")

    on_node(tmp_path, scenario, pods=[])


def test_a_shared_pool_needs_no_known_pod(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask("shared") as client:
            assert (await client.answer())[1] == SHARED
            assert node.listings == 0

    on_node(tmp_path, scenario, pods=[])


def test_without_require_request_a_pod_needs_no_grant(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            assert (await client.answer())[1] == EXCLUSIVE

    on_node(tmp_path, scenario, pods=[], require_request=False)


def test_the_same_process_gets_the_same_answer(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            first = await client.answer()
            assert await client.again(text_of("exclusive")) == first
            await client.kill()
            await node.until(lambda: not node.tasks("exclusive"))

    on_node(tmp_path, scenario)


def test_the_same_process_may_move_to_another_pool(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            assert (await client.again(text_of("shared")))[1] == SHARED
            assert (node.tasks("exclusive"), node.tasks("shared")) == ([], [client.pid])
            await client.kill()
            await node.until(lambda: not node.tasks("shared"))

    on_node(tmp_path, scenario)


def test_a_child_on_the_core_that_its_process_gives_up_holds_it(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            child = await client.orphan()
            assert (await client.again(text_of("shared")))[1] == SHARED
            assert (node.tasks("exclusive"), node.tasks("shared")) == ([child], [client.pid])
            assert os.sched_getaffinity(child) == EXCLUSIVE
            os.kill(child, signal.SIGKILL)
            await node.until(lambda: not node.tasks("exclusive"))

    on_node(tmp_path, scenario)


def test_a_core_is_not_given_up_by_a_process_that_stays_on_it(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            reply, cpus = await client.again(text_of("shared", affinity=0))
            assert "error 78" in reply
            assert "it still has threads there" in reply
            assert (cpus, node.tasks("exclusive"), node.tasks("shared")) == (EXCLUSIVE, [client.pid], [])

    on_node(tmp_path, scenario)


def test_an_agent_that_was_killed_between_file_and_pin_has_made_an_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        seen = []
        files = StateFiles(options_in(tmp_path), Procfs())
        monkeypatch.setattr("cmk.agent.allocator.Pinning.pin", lambda _: seen.extend(files.read_tasks().tasks))
        allocator.isolate(Isolate("exclusive"), first.peer)
        assert [task.process.pid for task in seen] == [first.peer.pid]

    on_allocator(tmp_path, scenario)


def test_affinity_outside_the_cpuset_is_refused_and_nothing_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.sched_getaffinity
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: SHARED if pid not in (0, os.getpid()) else real(pid))

    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            assert "error 78\nCPUs" in (await client.answer())[0]
            assert node.tasks("exclusive") == []

    on_node(tmp_path, scenario)


def test_a_new_agent_finds_everything_as_it_was(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = Node(tmp_path, [POD])
        first.start()
        async with await first.ask() as stays, await first.ask("shared") as goes:
            await stays.answer()
            await goes.answer()
            first.service.stop()
            await goes.kill()
            second = Node(tmp_path)  # knows no pod but from the file
            second.start()
            assert (second.tasks("exclusive"), second.tasks("shared")) == ([stays.pid], [])
            async with await second.ask() as waits:
                await second.waiting(1)
                await stays.kill()
                assert (await waits.answer())[0].startswith("cmk/1 ok")
            second.service.stop()

    asyncio.run(scenario())


def test_the_state_of_another_boot_is_void(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        first = Node(tmp_path, [POD])
        first.start()
        async with await first.ask() as client:
            await client.answer()
            first.service.stop()
            monkeypatch.setattr(Procfs, "boot_id", lambda _: "another")
            second = Node(tmp_path)
            second.start()
            assert second.tasks("exclusive") == []
            second.service.stop()

    asyncio.run(scenario())


def test_a_full_disk_refuses_and_takes_nothing(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        # the temporary file cannot be made where a directory has its name
        (tmp_path / "run/.tasks.json.new").mkdir()
        async with await node.ask() as client:
            reply, cpus = await client.answer()
            assert reply.startswith("cmk/1 error 75\ncannot write")
            assert cpus != EXCLUSIVE
            assert node.tasks("exclusive") == []

    on_node(tmp_path, scenario)


async def end_both(allocator: Allocator, *workloads: Workload) -> list[int]:
    """Give two processes tasks and end them; returns the list to which each write of the files adds the number of its tasks."""
    writes: list[int] = []
    for workload in workloads:
        allocator.isolate(Isolate("shared", affinity=False), workload.peer)
    for workload in workloads:
        os.kill(workload.peer.pid, signal.SIGKILL)
        select.select([workload.peer.pidfd], [], [])
    allocator._files.write_tasks = lambda tasks, _: writes.append(len(list(tasks)))  # type: ignore[method-assign]
    allocator._lifetimes.sweep()
    assert not allocator.ledger.tasks
    assert writes == []
    return writes


def test_tasks_that_end_at_once_are_written_once(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        writes = await end_both(allocator, first, second)
        await asyncio.sleep(2 * allocator_module.SECONDS_TO_SETTLE)
        assert writes == [0]

    on_allocator(tmp_path, scenario)


def test_an_allocator_that_is_closed_leaves_the_files_to_the_next_agent(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        writes = await end_both(allocator, first, second)
        allocator.close()
        await asyncio.sleep(2 * allocator_module.SECONDS_TO_SETTLE)
        assert writes == []

    on_allocator(tmp_path, scenario)
