"""Connections to the agent, by real sockets: what is parsed and tried how often, what is refused, and what is closed."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from cmk.agent import server
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model import wire
from cmk.model.cgroup_path import PodContainer
from cmk.model.ledger import Ledger
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Request, Task
from tests.unit.agent.harness import LAYOUT, POD, Client, Node, on_node, text_of

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often requests are parsed and tried."""
    counts: Counter[str] = Counter()
    parse, allocate = wire.parse, Ledger.allocate

    def counted_parse(data: bytes) -> wire.Isolate | wire.Show:
        counts["parse"] += 1
        return parse(data)

    def counted_allocate(self: Ledger, request: Request) -> Task:
        counts["try"] += 1
        return allocate(self, request)

    monkeypatch.setattr(wire, "parse", counted_parse)
    monkeypatch.setattr(Ledger, "allocate", counted_allocate)
    return counts


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when the agent has accepted a connection."""
    event, peer_of = asyncio.Event(), server.peer_of

    def noted(connection: socket.socket) -> Peer:
        event.set()
        return peer_of(connection)

    monkeypatch.setattr(server, "peer_of", noted)
    return event


async def ask(node: Node, request: str, accepted: asyncio.Event | None = None) -> bytes:
    """The reply to this very process, empty when the agent hangs up; with ``accepted`` the request arrives after the connection."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setblocking(False)
        connection.connect(str(node.socket))
        if accepted:
            await accepted.wait()
        connection.send(request.encode())
        with suppress(ConnectionResetError):
            return await asyncio.wait_for(loop.sock_recv(connection, 65536), 20)
    return b""


@pytest.mark.parametrize(
    ("request_text", "reply", "tries"),
    [
        (text_of("shared"), b"cmk/1 ok", 1),
        (text_of("none"), b"cmk/1 error 78", 1),
        ("nonsense", b"cmk/1 error 78", 0),
        (f"{wire.VERSION} describe", b"cmk/1 ok", 0),
    ],
)
@pytest.mark.parametrize("is_early", [True, False])
def test_a_request_that_need_not_wait_is_parsed_once_and_tried_once(
    tmp_path: Path, calls: Counter[str], accepted: asyncio.Event, request_text: str, reply: bytes, tries: int, is_early: bool
) -> None:
    async def scenario(node: Node) -> None:
        calls.clear()
        assert (await ask(node, request_text, None if is_early else accepted)).startswith(reply)
        assert (calls["parse"], calls["try"]) == (1, tries)

    on_node(tmp_path, scenario)


def test_a_request_that_waits_is_tried_once_before_and_once_after(tmp_path: Path, calls: Counter[str]) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            calls.clear()
            async with await node.ask() as second:
                await node.waiting(1)
                await first.kill()
                await second.answer()
            assert (calls["parse"], calls["try"]) == (1, 2)

    on_node(tmp_path, scenario)


@pytest.mark.parametrize(("pods", "tries"), [([POD], 1), ([], 0)], ids=["for a list", "for its pod"])
def test_a_request_that_waits_in_vain_is_not_tried_again(
    tmp_path: Path, calls: Counter[str], pods: list[Pod], tries: int
) -> None:
    async def scenario(node: Node) -> None:
        assert node.service.ledger.restore(Task(Process(1, 1), "exclusive", (LAYOUT.pools["exclusive"].lists[0].name,)))
        calls.clear()
        async with await node.ask(timeout=400) as client:
            assert (await client.answer())[0].startswith("cmk/1 error 75")
        assert (calls["parse"], calls["try"]) == (1, tries)

    on_node(tmp_path, scenario, pods=pods)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many files"), RuntimeError("a bug")], ids=["system", "bug"])
@pytest.mark.parametrize("is_early", [True, False])
def test_an_unexpected_error_ends_one_connection_and_is_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    accepted: asyncio.Event,
    error: Exception,
    is_early: bool,
) -> None:
    def fail(_: Ledger, __: Request) -> Task:
        raise error

    async def scenario(node: Node) -> None:
        ends_agent: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: ends_agent.append(context))
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "allocate", fail)
            assert await ask(node, text_of("shared"), None if is_early else accepted) == b""
        assert str(error) in caplog.text
        assert not ends_agent
        assert await ask(node, text_of("none"))

    on_node(tmp_path, scenario)


@pytest.mark.parametrize("request_text", [text_of("none"), "nonsense", f"{wire.VERSION} describe"])
@pytest.mark.parametrize("is_early", [True, False])
def test_a_connection_leaves_no_descriptor_behind(
    tmp_path: Path, accepted: asyncio.Event, request_text: str, is_early: bool
) -> None:
    async def scenario(node: Node) -> None:
        before = sorted(Path("/proc/self/fd").iterdir())
        await ask(node, request_text, None if is_early else accepted)
        async with asyncio.timeout(20):
            while sorted(Path("/proc/self/fd").iterdir()) != before:
                await asyncio.sleep(0)

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
def test_a_refusal_is_one_line(tmp_path: Path, request_text: str, reply: str) -> None:
    async def scenario(node: Node) -> None:
        async with await Client.start(node.socket, request_text) as client:
            assert (await client.answer())[0].startswith(reply)
            assert node.tasks("exclusive") == []

    on_node(tmp_path, scenario)


def test_a_waiting_client_that_leaves_gets_nothing(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask() as second:
                await node.waiting(1)
                await second.kill()
            async with await node.ask() as third:
                await node.waiting(1)
                await first.kill()
                assert (await third.answer())[0].startswith("cmk/1 ok")
                assert node.tasks("exclusive") == [third.pid]

    on_node(tmp_path, scenario)


def test_one_pod_cannot_take_all_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_POD", 1)

    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask() as waits:
                await node.waiting(1)
                async with await node.ask("shared") as third:
                    assert (await third.answer())[0].startswith("cmk/1 error 75\n1 requests of this pod wait already")
                await waits.kill()

    on_node(tmp_path, scenario)


def test_connections_without_a_request_count_among_those_of_their_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_POD", 1)
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 60)

    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.setblocking(False)
            monkeypatch.setattr(Procfs, "pod_container", lambda *_: PodContainer("pod"))
            await asyncio.get_running_loop().sock_connect(silent, str(node.socket))
            async with await node.ask("shared") as second:
                assert (await second.answer())[0].startswith("cmk/1 error 75\n1 requests of this pod wait already")
        async with await node.ask("shared") as third:
            assert (await third.answer())[0].startswith("cmk/1 ok")

    on_node(tmp_path, scenario)


def test_the_agent_hangs_up_on_a_client_that_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 0.1)

    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, str(node.socket))
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 10) == b""

    on_node(tmp_path, scenario)
