"""The agent's sockets: accept, read one request, answer once, close. Nothing a client does costs another client more than its turn."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from cmk.agent.allocator import Allocator
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


class Server:
    """Serves requests on ``agent.sock`` of every directory. ``show`` renders a read-only request (describe, node-report)."""

    def __init__(self, allocator: Allocator, procfs: Procfs, show: Callable[[str], str]) -> None:
        self._allocator = allocator
        self._procfs = procfs
        self._show = show
        self._listeners: dict[Path, socket.socket] = {}
        self._inodes: dict[Path, int] = {}
        self._clients: set[asyncio.Task[None]] = set()
        self._per_pod: Counter[str] = Counter()

    def open(self, directories: Iterable[Path]) -> None:
        """Listen in every directory; a socket file that is there is replaced by rename, so that no client finds none."""
        for directory in directories:
            self.reopen(directory)

    def reopen(self, directory: Path) -> None:
        """Listen in one directory (again)."""
        self._close(directory)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        temporary = directory / f".{SOCKET}.new"
        temporary.unlink(missing_ok=True)
        listener.bind(str(temporary))
        temporary.chmod(0o666)  # who may ask for what is decided by the kernel's word on the peer, never by a uid
        listener.listen(BACKLOG)
        self._inodes[directory] = temporary.lstat().st_ino
        temporary.rename(directory / SOCKET)
        self._listeners[directory] = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def is_intact(self, directory: Path) -> bool:
        """Whether the socket file in a directory still is the one that we listen on."""
        try:
            found = (directory / SOCKET).lstat()
        except OSError:
            return False
        return found.st_mode & 0o777 == 0o666 and found.st_ino == self._inodes.get(directory)

    def close(self) -> None:
        """Stop listening and hang up on whoever still waits: those clients ask the next agent."""
        for directory in list(self._listeners):
            self._close(directory)
        for client in self._clients:
            client.cancel()

    def _close(self, directory: Path) -> None:
        if listener := self._listeners.pop(directory, None):
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                # Readable again at once: without a pause this would spin until somebody closes a file.
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
        if self._served_at_once(connection, peer):
            return
        client = asyncio.get_running_loop().create_task(self._serve(connection, peer))
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners.values():
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _served_at_once(self, connection: socket.socket, peer: Peer) -> bool:
        """Serve on the spot what has been asked already and needs no waiting: a task of its own would double the time that takes.

        Whatever is not served stays in the socket, for ``_serve`` to look at again.
        """
        try:
            place = self._allocator.place(peer)
            asked = wire.parse(connection.recv(wire.MAX_REQUEST, socket.MSG_PEEK))
            if self._per_pod[place.pod] >= CONNECTIONS_PER_POD or not isinstance(asked, wire.Isolate):
                return False
            environment = self._allocator.isolate_now(asked, peer, place)
        except (OSError, wire.WireError, Refused, AffinityError, StateError):
            return False
        if environment is None:
            return False
        with connection:
            try:
                connection.recv(wire.MAX_REQUEST)  # closing with something unread would reset the connection under the answer
                connection.send(wire.ok(environment))
            except OSError:
                log.debug("client %d left before the answer", peer.pid)
        return True

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        with connection:
            pod = self._pod_of(peer)
            self._per_pod[pod] += 1
            taken = False
            try:
                crowded = bool(pod) and self._per_pod[pod] > CONNECTIONS_PER_POD
                taken = await self._converse(connection, peer, crowded)
            except (OSError, TimeoutError) as error:
                log.debug("client %d: %s", peer.pid, error or type(error).__name__)
            finally:
                if not taken:
                    os.close(peer.pidfd)
                self._per_pod[pod] -= 1
                if not self._per_pod[pod]:
                    del self._per_pod[pod]

    def _pod_of(self, peer: Peer) -> str:
        try:
            return self._procfs.place(peer.pid).pod
        except (ProcessLookupError, MixedCgroupsError):
            return ""

    async def _converse(self, connection: socket.socket, peer: Peer, crowded: bool) -> bool:
        """Read, answer; returns whether the allocator has taken the peer's pidfd."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SECONDS_TO_SEND):
            data = await loop.sock_recv(connection, wire.MAX_REQUEST)
        if not data:
            return False
        try:
            asked = wire.parse(data)
        except wire.WireError as error:
            await loop.sock_sendall(connection, wire.refusal(wire.NEVER, str(error)))
            return False
        if crowded:
            text = f"more than {CONNECTIONS_PER_POD} requests of this pod at once"
            await loop.sock_sendall(connection, wire.refusal(wire.LATER, text))
            return False
        if isinstance(asked, wire.Show):
            await self._send_text(connection, self._show(asked.what))
            return False
        environment, reply = await self._answer(asked, peer, connection)
        try:
            await loop.sock_sendall(connection, reply)
        except OSError:
            # The task is booked: its process asks again, or its end releases it.
            log.debug("client %d left before the answer", peer.pid)
        return environment

    async def _answer(self, asked: wire.Isolate, peer: Peer, connection: socket.socket) -> tuple[bool, bytes]:
        """Whether the request was served, and the reply."""
        try:
            environment = self._allocator.isolate_now(asked, peer, self._allocator.place(peer))
            if environment is None:
                environment = await self._wait(asked, peer, connection)
        except Refused as refusal:
            return False, self._refuse(peer, wire.NEVER if refusal.final else wire.LATER, str(refusal))
        except AffinityError as error:
            return False, self._refuse(peer, wire.NEVER, str(error))
        except StateError as error:
            return False, self._refuse(peer, wire.LATER, str(error))
        return True, wire.ok(environment)

    async def _wait(self, asked: wire.Isolate, peer: Peer, connection: socket.socket) -> dict[str, str]:
        """Wait for a list, for as long as the client waits for us; raises Refused at the deadline."""
        loop = asyncio.get_running_loop()
        work = loop.create_task(self._allocator.isolate(asked, peer))
        left = loop.create_task(loop.sock_recv(connection, 1))
        seconds = max(asked.timeout - SECONDS_BEFORE_DEADLINE, 0.0)
        try:
            await asyncio.wait({work, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            if left.done():
                raise ConnectionResetError("client left while it waited")
            reason = self._allocator.why_waiting(asked, peer)
            raise Refused(f"{reason}; waited {asked.timeout:.3g} s", final=False)
        finally:
            for task in (work, left):
                task.cancel()
            await asyncio.gather(work, left, return_exceptions=True)

    def _refuse(self, peer: Peer, code: int, text: str) -> bytes:
        log.info("refused process %d (%s): %s", peer.pid, "later" if code == wire.LATER else "never", text)
        return wire.refusal(code, text)

    async def _send_text(self, connection: socket.socket, text: str) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(SECONDS_TO_READ):
            await loop.sock_sendall(connection, wire.ok({}))
            data = text.encode()
            for start in range(0, len(data), _SHOW_PACKET):
                await loop.sock_sendall(connection, data[start : start + _SHOW_PACKET])
