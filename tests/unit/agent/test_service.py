"""Allocation over a real socket, by real processes."""

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from cmk.agent import server
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from tests.unit.agent.harness import EXCLUSIVE, LAYOUT, PLACE, POD, SHARED, Client, Node, is_client, on_node, text_of


@pytest.fixture(autouse=True)
def _in_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients and what they leave behind live in the pod, nothing else does."""

    def place(self: Procfs, pid: int) -> PodContainer:
        return PLACE if is_client(self.root, pid) else PodContainer()

    monkeypatch.setattr(Procfs, "place", place)


@pytest.fixture(autouse=True)
def _keep_affinity() -> object:
    """The agent pins itself to infra; later tests want all CPUs."""
    before = os.sched_getaffinity(0)
    yield None
    os.sched_setaffinity(0, before)


def test_pins_and_tells(tmp_path: Path) -> None:
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


def test_the_agent_lives_in_infra(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        assert node.tasks("infra") == [os.getpid()]
        assert os.sched_getaffinity(0) == SHARED

    on_node(tmp_path, scenario)


def test_killed_means_free(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            await client.kill()
            await node.until(lambda: not node.tasks("exclusive"))

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


def test_a_waiting_client_that_leaves_gets_nothing(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask() as second:
                await node.waiting(1)
                await second.kill()
            await first.kill()
            await node.until(lambda: not node.tasks("exclusive"))

    on_node(tmp_path, scenario)


@pytest.mark.parametrize(
    ("request_text", "reply"),
    [
        (text_of("none"), "cmk/1 error 78\nRequested pool none does not exist; this node has exclusive, infra, shared"),
        (text_of("exclusive", cores=2), "cmk/1 error 78\n2 cores of pool exclusive asked, pod ns/web is granted 1"),
        (text_of("exclusive", cores=0), "cmk/1 error 78\nRequested numbers of cores must be positive integer"),
        ("cmk/7 isolate", "cmk/1 error 78\nprotocol 'cmk/7'"),
        ("nonsense", "cmk/1 error 78\nprotocol 'nonsense'"),
    ],
)
def test_refuses_with_a_line(tmp_path: Path, request_text: str, reply: str) -> None:
    async def scenario(node: Node) -> None:
        async with await Client.start(node.socket, request_text) as client:
            assert (await client.answer())[0].startswith(reply)
            assert node.tasks("exclusive") == []

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


def test_shared_pools_ask_nobody(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask("shared") as client:
            assert (await client.answer())[1] == SHARED
            assert node.listings == 0

    on_node(tmp_path, scenario, pods=[])


def test_warn_mode_lets_everybody_in(tmp_path: Path) -> None:
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
            assert (await client.answer())[0].startswith("cmk/1 error 75\ncannot write")
            assert node.tasks("exclusive") == []

    on_node(tmp_path, scenario)


def test_describe_tells_pids(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as client:
            await client.answer()
            shown = json.loads(node.service.show("describe"))
            (listed,) = shown["pools"]["exclusive"]["cpuLists"].values()
            assert listed["tasks"] == [client.pid]

    on_node(tmp_path, scenario)


def test_one_pod_cannot_take_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_POD", 1)

    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask() as waits:
                await node.waiting(1)
                async with await node.ask("shared") as third:
                    assert (await third.answer())[0].startswith("cmk/1 error 75\nmore than 1 requests")
                await waits.kill()

    on_node(tmp_path, scenario)


def test_who_says_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 0.1)

    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, str(node.socket))
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 10) == b""

    on_node(tmp_path, scenario)


@pytest.mark.parametrize("name", ["cmk", "agent.sock"])
def test_damage_in_a_host_directory_is_put_right(tmp_path: Path, name: str) -> None:
    async def scenario(node: Node) -> None:
        target = tmp_path / "old" / name
        target.unlink()
        async with asyncio.timeout(20):
            while not target.exists():
                await asyncio.sleep(0.02)
        async with await Client.start(tmp_path / "old/agent.sock", text_of("shared")) as client:
            assert (await client.answer())[0].startswith("cmk/1 ok")

    on_node(tmp_path, scenario)


def test_no_pool_lies_in_another() -> None:
    assert not LAYOUT.pools["exclusive"].cpus & LAYOUT.pools["infra"].cpus
