"""The agent's sockets: each connection is accepted, one request is read from it, one reply sent, and the connection closed.

A request is parsed once. It is answered right after ``accept`` when it has arrived by then and needs no waiting; otherwise a task waits.
Nothing a client does costs another client more than its turn.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from cmk.agent.allocator import Allocator, Waiting
from cmk.host.affinity import AffinityError
from cmk.host.peer import Peer, peer_of
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.model import wire
from cmk.model.cgroup_path import MixedCgroupsError
from cmk.model.choice import Refused

log = logging.getLogger(__name__)

SOCKET = "agent.sock"
BACKLOG = 512
CONNECTIONS_PER_POD = 64
SECONDS_TO_SEND = 2.0
SECONDS_TO_READ = 10.0
SECONDS_BEFORE_DEADLINE = 0.25
SECONDS_FULL = 0.5
_SHOW_PACKET = 32768
_FAILURES = (Refused, AffinityError, StateError, OSError)


class _Client:
    """An accepted connection and the process at its other end. ``is_served``: the allocator has taken over the pidfd."""

    def __init__(self, connection: socket.socket, peer: Peer) -> None:
        self.connection = connection
        self.peer = peer
        self.is_served = False

    def finish(self, reply: bytes) -> None:
        """Send the reply, unless it is empty, and close what the allocator has not taken over."""
        with self.connection:
            if reply:
                self.send(reply)
            if not self.is_served:
                os.close(self.peer.pidfd)

    def send(self, reply: bytes) -> None:
        """Send the reply; a client that has left gets none."""
        try:
            self.connection.send(reply)
        except OSError as error:
            # What was allocated stays so: the process asks again, or its end releases it.
            log.debug("client %d left before the reply: %s", self.peer.pid, error)


class Server:
    """Serves requests on ``agent.sock`` of every directory. ``show`` renders a read-only request (describe, node-report)."""

    def __init__(self, allocator: Allocator, procfs: Procfs, show: Callable[[wire.Show], str]) -> None:
        self._allocator = allocator
        self._procfs = procfs
        self._show = show
        self._listeners: dict[Path, socket.socket] = {}
        self._inodes: dict[Path, int] = {}
        self._waits: set[asyncio.Task[bytes]] = set()
        self._waiting_per_pod: Counter[str] = Counter()

    def open(self, directories: Iterable[Path]) -> None:
        """Listen in every directory; an old socket file is replaced by rename, so that there is one at every moment."""
        for directory in directories:
            self.reopen(directory)

    def reopen(self, directory: Path) -> None:
        """Listen in one directory (again)."""
        self._close(directory)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        temporary = directory / f".{SOCKET}.new"
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o666)  # what a client may have depends on its pod, which the kernel names, and not on its uid
        listener.listen(BACKLOG)
        self._inodes[directory] = temporary.lstat().st_ino
        temporary.rename(directory / SOCKET)
        self._listeners[directory] = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def is_intact(self, directory: Path) -> bool:
        """Whether the socket file in a directory still is the one that the agent listens on."""
        try:
            status = (directory / SOCKET).lstat()
        except OSError:
            return False
        return status.st_mode & 0o777 == 0o666 and status.st_ino == self._inodes.get(directory)

    def close(self) -> None:
        """Stop listening and hang up on clients that wait: they ask the next agent."""
        for directory in list(self._listeners):
            self._close(directory)
        for wait in self._waits:
            wait.cancel()

    def _close(self, directory: Path) -> None:
        if listener := self._listeners.pop(directory, None):
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # The listener stays readable: without a pause the loop would spin until a file is closed.
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(SECONDS_FULL, self._resume, listener)
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
                log.error("cannot accept: %s", error)
            return
        connection.setblocking(False)
        try:
            peer = peer_of(connection)
        except ProcessLookupError:
            connection.close()
            return
        self._serve(_Client(connection, peer))

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners.values():
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _serve(self, client: _Client) -> None:
        """Reply on the spot to a request that need not wait, for a task of its own would double the time; else start one that waits."""
        try:
            answer = self._answer_now(client)
        except Exception:  # of this request alone, as in a task that waits: the allocator has undone it
            log.exception("cannot serve process %d", client.peer.pid)
            answer = b""
        if isinstance(answer, bytes):
            client.finish(answer)
            return
        wait = asyncio.get_running_loop().create_task(answer)
        self._waits.add(wait)
        wait.add_done_callback(partial(self._on_waited, client))

    def _on_waited(self, client: _Client, wait: asyncio.Task[bytes]) -> None:
        self._waits.discard(wait)
        error = None if wait.cancelled() else wait.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("client %d: %s", client.peer.pid, str(error) or type(error).__name__)
        elif error:
            log.error("cannot serve process %d", client.peer.pid, exc_info=error)
        client.finish(b"" if wait.cancelled() or error else wait.result())

    def _answer_now(self, client: _Client) -> bytes | Coroutine[Any, Any, bytes]:
        """The reply, empty to hang up, or what to await for it: the request itself, a CPU list, or room to send."""
        try:
            data = client.connection.recv(wire.MAX_REQUEST)
        except BlockingIOError:
            return self._answer_when_asked(client)
        except OSError:
            return b""
        return self._answer(client, data)

    async def _answer_when_asked(self, client: _Client) -> bytes:
        with self._counted(client.peer):
            async with asyncio.timeout(SECONDS_TO_SEND):
                data = await asyncio.get_running_loop().sock_recv(client.connection, wire.MAX_REQUEST)
        answer = self._answer(client, data)
        return answer if isinstance(answer, bytes) else await answer

    def _answer(self, client: _Client, data: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        if not data:
            return b""
        try:
            request = wire.parse(data)
        except wire.WireError as error:
            return wire.refusal(wire.NEVER, str(error))
        if self._is_crowded(client.peer):
            return wire.refusal(wire.LATER, f"{CONNECTIONS_PER_POD} requests of this pod wait already; try again when fewer do")
        if isinstance(request, wire.Show):
            return self._answer_show(client, request)
        try:
            outcome = self._allocator.isolate(request, client.peer)
        except _FAILURES as error:
            return _refusal(client.peer, error)
        return self._answer_later(client, request, outcome) if isinstance(outcome, Waiting) else _success(client, outcome)

    async def _answer_later(self, client: _Client, request: wire.Isolate, waiting: Waiting) -> bytes:
        """Wait as long as the client waits for its reply; it is refused at its deadline."""
        loop = asyncio.get_running_loop()
        seconds = max(request.timeout - SECONDS_BEFORE_DEADLINE, 0.0)
        with self._counted(client.peer):
            work = loop.create_task(self._isolate_later(client, request, waiting))
            left = loop.create_task(loop.sock_recv(client.connection, 1))
            try:
                await asyncio.wait({work, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return work.result()
                if left.done():
                    return b""
                raise Refused(f"{waiting.reason}; waited {request.timeout:.3g} s", final=False)
            except _FAILURES as error:
                return _refusal(client.peer, error)
            finally:
                for task in (work, left):
                    task.cancel()
                await asyncio.gather(work, left, return_exceptions=True)

    async def _isolate_later(self, client: _Client, request: wire.Isolate, waiting: Waiting) -> bytes:
        # In the same step as the allocator takes over the pidfd: when the agent stops, nothing comes between. The reply is sent at once, as
        # ending the tasks around this one takes turns of the loop.
        client.send(_success(client, await self._allocator.isolate_later(request, client.peer, waiting)))
        return b""

    async def _answer_show(self, client: _Client, request: wire.Show) -> bytes:
        with self._counted(client.peer):
            await self._send_text(client.connection, self._show(request))
        return b""

    def _is_crowded(self, peer: Peer) -> bool:
        """Whether as many requests of the peer's pod wait as may."""
        if not self._waiting_per_pod:
            return False
        pod = self._pod_of(peer)
        return bool(pod) and self._waiting_per_pod[pod] >= CONNECTIONS_PER_POD

    @contextmanager
    def _counted(self, peer: Peer) -> Iterator[None]:
        """Count a request of the peer's pod as one that waits."""
        pod = self._pod_of(peer)
        self._waiting_per_pod[pod] += 1
        try:
            yield
        finally:
            self._waiting_per_pod[pod] -= 1
            if not self._waiting_per_pod[pod]:
                del self._waiting_per_pod[pod]

    def _pod_of(self, peer: Peer) -> str:
        try:
            return self._procfs.pod_container(peer.pid).pod
        except (ProcessLookupError, MixedCgroupsError):
            return ""

    async def _send_text(self, connection: socket.socket, text: str) -> None:
        loop = asyncio.get_running_loop()
        data = text.encode()
        async with asyncio.timeout(SECONDS_TO_READ):
            await loop.sock_sendall(connection, wire.show_head(len(data)))
            for start in range(0, len(data), _SHOW_PACKET):
                await loop.sock_sendall(connection, data[start : start + _SHOW_PACKET])


def _success(client: _Client, environment: dict[str, str]) -> bytes:
    client.is_served = True
    return wire.ok(environment)


def _refusal(peer: Peer, error: Exception) -> bytes:
    """The reply to a request that failed with one of ``_FAILURES``: empty when no reply helps."""
    if isinstance(error, OSError):
        # The client has ended; or the agent cannot read what it must: then the client asks again, up to its own deadline.
        log.log(
            logging.DEBUG if isinstance(error, ProcessLookupError) else logging.ERROR,
            "cannot serve process %d: %s",
            peer.pid,
            error,
        )
        return b""
    is_later = isinstance(error, StateError) or (isinstance(error, Refused) and not error.final)
    log.info("refused process %d (%s): %s", peer.pid, "later" if is_later else "never", error)
    return wire.refusal(wire.LATER if is_later else wire.NEVER, str(error))
