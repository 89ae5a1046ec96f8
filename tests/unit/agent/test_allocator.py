"""Allocation for real processes: ledger, affinity, notices and task file in step, and what a request waits for."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from cmk.agent.allocator import Allocator, Waiting
from cmk.agent.files import StateFiles
from cmk.agent.pod_cache import PodCache
from cmk.agent.wakeups import Wakeups
from cmk.host.affinity import AffinityError, Pinning
from cmk.host.notify import Notifier
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer
from cmk.model.choice import Refused
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.tasks import Task
from cmk.model.wire import Isolate
from tests.unit.agent.harness import EXCLUSIVE, LAYOUT, PLACE, POD, SHARED, Node, on_node, options_in, text_of

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")

LIST = Isolate("exclusive", affinity=False)


class Workload:
    """A process that sleeps, as a peer."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.peer = Peer(process.pid, os.pidfd_open(process.pid))

    @classmethod
    async def start(cls) -> Workload:
        return cls(await asyncio.create_subprocess_exec("sleep", "60"))

    async def end(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


def on_allocator(
    root: Path, scenario: Callable[[Allocator, Workload, Workload], Awaitable[None]], layout: Layout = LAYOUT
) -> None:
    """Run a scenario with two processes, on pools without grants."""

    async def run() -> None:
        allocator = allocator_in(root, layout)
        first, second = await Workload.start(), await Workload.start()
        try:
            await scenario(allocator, first, second)
        finally:
            allocator.close()
            await first.end()
            await second.end()

    asyncio.run(run())


def allocator_in(root: Path, layout: Layout = LAYOUT) -> Allocator:
    """The allocator of an agent that starts with the files in a directory; it has adopted nothing yet."""
    procfs, ledger = Procfs(), Ledger(layout, require_grant=False)
    notifier, files = Notifier([root], procfs), StateFiles(options_in(root), procfs)
    return Allocator(ledger, PodCache(list_pods, lambda: None), procfs, files, Wakeups(), lambda: None, notifier)


async def later(allocator: Allocator, workload: Workload) -> dict[str, str]:
    """Ask for an exclusive list and wait until there is one."""
    outcome = allocator.isolate(LIST, workload.peer)
    if isinstance(outcome, Waiting):
        outcome = await asyncio.wait_for(allocator.isolate_later(LIST, workload.peer, outcome, partial(asyncio.sleep, 0)), 20)
    return outcome


def saved(root: Path) -> list[tuple[int, str]]:
    """Pid and pool of the tasks that the next agent would find."""
    return [(task.process.pid, task.pool) for task in StateFiles(options_in(root), Procfs()).read_tasks().tasks]


async def list_pods() -> list[dict[str, object]]:
    """No pod is on the node."""
    return []


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
            patch.setattr(asyncio.get_running_loop(), "add_reader", fail)
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
            patch.setattr(asyncio.get_running_loop(), "add_reader", fail)
            with pytest.raises(OSError, match="No space left"):
                allocator.adopt(handed_over(allocator, first)[:1])
        assert not allocator.ledger.tasks
        os.close(first.peer.pidfd)

    on_allocator(tmp_path, scenario)


def test_a_process_whose_pin_cannot_be_undone_holds_its_lists_until_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Pinning) -> None:
        raise AffinityError("it keeps starting threads")

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Pinning, "pin", fail)
            patch.setattr(Pinning, "undo", lambda _: False)
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
            patch.setattr(Pinning, "pin", fail)
            patch.setattr(Pinning, "undo", lambda _: False)
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
    def fail(_: Pinning) -> None:
        raise AffinityError("it keeps starting threads")

    other = Pool("exclusive-non-isolcpus", True, (CpuList(SHARED, 0),))
    layout = Layout(LAYOUT.pools | {other.name: other})
    wanted = Isolate(other.name, affinity=False)

    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        assert isinstance(allocator.isolate(LIST, first.peer), dict)
        with monkeypatch.context() as patch:
            patch.setattr(Pinning, "pin", fail)
            patch.setattr(Pinning, "undo", lambda _: False)
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
    def fail(_: Pinning) -> None:
        raise AffinityError("it keeps starting threads")

    async def scenario(allocator: Allocator, first: Workload, _: Workload) -> None:
        assert isinstance(allocator.isolate(Isolate("exclusive"), first.peer), dict)
        with monkeypatch.context() as patch:
            patch.setattr(Pinning, "pin", fail)
            patch.setattr(Pinning, "undo", lambda _: False)
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


def handed_over(allocator: Allocator, workload: Workload) -> list[Task]:
    """What the tasks file says of a process that was about to move to the shared pool when the agent was killed."""
    process = Procfs().process(workload.peer.pid)
    core, shared = (LAYOUT.pools[name].lists[0].name for name in ("exclusive", "shared"))
    return [Task(process, "exclusive", (core,), PLACE.pod, PLACE.container), Task(process, "shared", (shared,), PLACE.pod)]


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
        await asyncio.sleep(0)
        assert writes == [0]

    on_allocator(tmp_path, scenario)


def test_an_allocator_that_is_closed_leaves_the_files_to_the_next_agent(tmp_path: Path) -> None:
    async def scenario(allocator: Allocator, first: Workload, second: Workload) -> None:
        writes = await end_both(allocator, first, second)
        allocator.close()
        await asyncio.sleep(0)
        assert writes == []

    on_allocator(tmp_path, scenario)
