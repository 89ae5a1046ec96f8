"""Connections to the agent, by real sockets: what is parsed and tried how often, what is refused, and what is closed."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType

import pytest

from cmk.agent import callers, server
from cmk.agent.callers import Caller, Callers
from cmk.agent.limits import Limits
from cmk.host.peer import Peer, peer_of
from cmk.model import wire
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
    event, of = asyncio.Event(), Callers.of

    def noted(self: Callers, connection: socket.socket) -> tuple[int, Caller, Peer | None]:
        event.set()
        return of(self, connection)

    monkeypatch.setattr(Callers, "of", noted)
    return event


async def ask(node: Node, request: str, accepted: asyncio.Event | None = None) -> bytes:
    """The reply to this very process, empty when the agent hangs up; with ``accepted`` the request arrives after the connection."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.setblocking(False)
        connection.connect(str(node.socket))
        if accepted:
            await asyncio.wait_for(accepted.wait(), 20)
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


def test_no_more_requests_of_a_pod_wait_than_may(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask() as first:
            await first.answer()
            async with await node.ask() as waits:
                await node.waiting(1)
                async with await node.ask() as third:
                    assert (await third.answer())[0].startswith("cmk/1 error 75\n1 requests of this pod wait already")
                async with await node.ask("shared") as served_at_once:
                    assert (await served_at_once.answer())[0].startswith("cmk/1 ok")
                await waits.kill()

    on_node(tmp_path, scenario, limits=Limits(waiting=1))


def test_a_pod_has_no_more_connections_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 60)
    opened: list[int] = []
    for module in (callers, server):
        monkeypatch.setattr(module, "peer_of", lambda connection, *_: opened.append(connection.fileno()) or peer_of(connection))

    async def scenario(node: Node) -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            silent = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(5)]
            for connection in silent:
                connection.setblocking(False)
                connection.connect(str(node.socket))
            # All are of this very process, which is in no pod. The agent hangs up on those beyond the limit, and opens nothing for them.
            for connection in silent[2:]:
                assert await asyncio.wait_for(loop.sock_recv(connection, 1), 20) == b""
            assert len(opened) == 2
            assert (await ask(node, text_of("shared"))).startswith(b"cmk/1 error 75\n2 connections of this pod are open already")
            async with await node.ask("shared") as other_pod:
                assert (await other_pod.answer())[0].startswith("cmk/1 ok")
        assert (await ask(node, text_of("none"))).startswith(b"cmk/1 error 78")

    on_node(tmp_path, scenario, limits=Limits(connections=2))


def test_who_has_left_before_its_turn_is_not_served(tmp_path: Path, calls: Counter[str]) -> None:
    async def scenario(node: Node) -> None:
        calls.clear()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(node.socket))
            connection.send(text_of("shared").encode())
        assert (await ask(node, text_of("none"))).startswith(b"cmk/1 error 78")
        assert (calls["parse"], calls["try"]) == (1, 1)

    on_node(tmp_path, scenario)


@pytest.mark.parametrize("most_put_off", [0, 1, 9])
def test_requests_beyond_the_connections_are_refused_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_put_off: int
) -> None:
    monkeypatch.setattr(server, "MOST_PUT_OFF", most_put_off)
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 60)

    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(str(node.socket))
            replies = await asyncio.gather(*(ask(node, text_of("shared")) for _ in range(3)))
            assert {reply.split(b";")[0] for reply in replies} == {
                b"cmk/1 error 75\n1 connections of this pod are open already (workloads.limits.connections)"
            }
        files = sorted(Path("/proc/self/fd").iterdir())
        assert (await ask(node, text_of("none"))).startswith(b"cmk/1 error 78")
        assert len(sorted(Path("/proc/self/fd").iterdir())) <= len(files)

    on_node(tmp_path, scenario, limits=Limits(connections=1))


def test_the_agent_keeps_descriptors_for_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "files_of_clients", lambda _: 3)

    async def scenario(node: Node) -> None:
        assert (await ask(node, text_of("shared"))).startswith(b"cmk/1 error 75\nthe agent has no file descriptors left")

    on_node(tmp_path, scenario)


def test_a_pod_has_no_more_tasks_than_it_may(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        async with await node.ask("shared") as first:
            await first.answer()
            async with await node.ask("infra", timeout=300) as second:
                assert (await second.answer())[0].startswith("cmk/1 error 75\npod ns/web has 1 tasks already")
            assert node.tasks("shared") == [first.pid]

    on_node(tmp_path, scenario, limits=Limits(tasks=1))


def test_the_agent_hangs_up_on_silent_clients_when_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 60)

    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.setblocking(False)
            silent.connect(str(node.socket))
            async with asyncio.timeout(20):
                while not node.service._server._clients:
                    await asyncio.sleep(0)
            node.service._server.close()
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 20) == b""

    on_node(tmp_path, scenario)


@pytest.mark.parametrize(
    "payload",
    [
        b"cmk/1 isolate\npool=shared\ntimeout=" + b"9" * 400,
        b"cmk/1 isolate\npool=shared\ncores=" + b"9" * 30,
        b"cmk/1 isolate\npool=infra\nsocket=" + b"9" * 4050,
        b"cmk/1 isolate\npool=x\x1b[31mFORGED\x00",
        b"cmk/1 isolate\npool=\xed\xa0\x80",
        b"x" * 9000,
        b"",
    ],
)
def test_no_packet_harms_the_agent(tmp_path: Path, payload: bytes) -> None:
    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.setblocking(False)
            connection.connect(str(node.socket))
            connection.send(payload)
            reply = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 65536), 20)
        assert all(line.isprintable() for line in reply.decode().split("\n"))
        assert not node.service._server.faults.counts
        assert (await ask(node, text_of("none"))).startswith(b"cmk/1 error 78")

    on_node(tmp_path, scenario)


@pytest.mark.parametrize(("module", "place"), [(callers, "peer_of"), (server, "_received")])
def test_a_fault_in_accept_ends_one_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: ModuleType, place: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "too many files")

    async def scenario(node: Node) -> None:
        ends_agent: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: ends_agent.append(context))
        files = sorted(Path("/proc/self/fd").iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(module, place, fail)
            for _ in range(5):
                assert await ask(node, text_of("shared")) == b""
        assert sorted(Path("/proc/self/fd").iterdir()) == files
        assert list(node.service._server.faults.counts.values()) == [5]
        assert caplog.text.count("Traceback") == 1
        assert not ends_agent
        assert await ask(node, text_of("none"))

    on_node(tmp_path, scenario)


def test_the_agent_hangs_up_on_a_client_that_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_TO_SEND", 0.1)

    async def scenario(node: Node) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, str(node.socket))
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(silent, 1), 10) == b""

    on_node(tmp_path, scenario)
