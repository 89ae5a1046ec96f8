"""The agent's sockets: each connection is accepted, one request is read from it, one reply sent, and the connection closed.

A connection is counted before anything is opened for it, and its request answered in its caller's turn (``turns.py``): a request that has
arrived already and need not wait, right after ``accept``. An exception that nobody expected ends the one connection that it belongs to.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cmk.agent.allocator import Allocator, Waiting
from cmk.agent.callers import Caller, Callers
from cmk.agent.faults import Faults
from cmk.agent.limits import Limits, files_of_clients, number_of_files
from cmk.agent.turns import Turns
from cmk.host import foreign
from cmk.host.affinity import AffinityError
from cmk.host.peer import Peer, peer_of
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.model import wire
from cmk.model.choice import Refused

log = logging.getLogger(__name__)

SOCKET = "agent.sock"
# Connections that the kernel keeps until they are accepted. Launchers that find no room wait and come again (``connect_in_turn``): in a
# flood, a longer queue would only be one more time to wait.
BACKLOG = 32
MODE = 0o666  # what a client may have depends on its pod, which the kernel names, and not on its uid
# Most connections that are accepted before the event loop looks at other sockets.
ACCEPTED_AT_ONCE = 64
SECONDS_TO_SEND = 2.0
SECONDS_TO_READ = 10.0
SECONDS_BEFORE_DEADLINE = 0.25
SECONDS_FULL = 0.5
# A refusal for too many connections is put off, of so many connections of a pod at most: who gets it at once comes again at once.
SECONDS_PUT_OFF = 0.1
MOST_PUT_OFF = 1024
_SHOW_PACKET = 32768
_FULL = "the agent has no file descriptors left for more clients"
_FAILURES = (Refused, AffinityError, StateError, OSError)


class _Client:
    """An accepted connection and the process at its other end. ``is_served``: the allocator has taken over the pidfd.

    ``silence`` ends the connection of a client that sends no request.
    """

    def __init__(self, connection: socket.socket, peer: Peer, caller: Caller) -> None:
        self.connection = connection
        self.peer = peer
        self.caller = caller
        self.is_served = False
        self.silence: asyncio.TimerHandle | None = None
        caller.connections += 1

    def finish(self, reply: bytes) -> None:
        """Send the reply, unless it is empty, and close what the allocator has not taken over."""
        self.caller.connections -= 1
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
    """Serves requests on ``agent.sock`` of every directory. ``show`` renders a read-only request (describe, node-report).

    ``faults`` counts the exceptions that nobody expected.
    """

    def __init__(self, allocator: Allocator, procfs: Procfs, show: Callable[[wire.Show], str], limits: Limits) -> None:
        self._allocator = allocator
        self._show = show
        self._limits = limits
        self._callers = Callers(procfs, limits, asyncio.get_running_loop().time)
        self._turns = Turns()
        self.faults = Faults()
        self._crowd = f"{limits.connections} connections of this pod are open already (workloads.limits.connections)"
        # A file gets the lowest free number: when one gets this number, only the agent's reserve is left.
        self._last_file = files_of_clients(number_of_files())
        self._listeners: dict[Path, socket.socket] = {}
        self._clients: set[_Client] = set()
        self._files: dict[Path, int] = {}  # descriptors of the sockets' files
        self._waits: set[asyncio.Task[bytes]] = set()

    def reopen(self, directory: Path) -> None:
        """Listen in one directory (again); an old socket file is replaced, so that there is one at every moment. Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with foreign.opened(directory) as there:
                file = there.listen(listener, SOCKET, MODE, BACKLOG)
        except OSError:
            listener.close()
            raise
        self._close(directory)
        self._files[directory] = file
        self._listeners[directory] = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def is_intact(self, directory: Path) -> bool:
        """Whether the socket file in a directory still is the one that the agent listens on."""
        if directory not in self._files:
            return False
        try:
            with foreign.opened(directory) as there:
                status = there.status(SOCKET)
        except OSError:
            return False
        return os.path.samestat(status, os.fstat(self._files[directory])) and status.st_mode & 0o777 == MODE

    def close(self) -> None:
        """Stop listening and hang up on all clients: they ask the next agent."""
        for directory in list(self._listeners):
            self._close(directory)
        self._turns.stop()
        self._callers.stop()
        for wait in self._waits:
            wait.cancel()
        for client in list(self._clients):  # those for whom no task waits
            self._forget_silence(client)
            self._finish(client, b"")

    def _close(self, directory: Path) -> None:
        if listener := self._listeners.pop(directory, None):
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
            os.close(self._files.pop(directory))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _ = listener.accept()
            except OSError as error:
                self._pause(listener, error)
                break
            try:
                self._admit(connection)
            except ProcessLookupError:
                connection.close()
            except Exception as error:
                self.faults.note(error, "cannot admit a client")
                connection.close()
        self._turns.run()

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
            # The listener stays readable: without a pause the loop would spin until a file is closed.
            loop = asyncio.get_running_loop()
            loop.remove_reader(listener)
            loop.call_later(SECONDS_FULL, self._resume, listener)
        elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EINTR):
            self.faults.note(error, "cannot accept a client")

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners.values():
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _admit(self, connection: socket.socket) -> None:
        """Take on a client, unless its pod has as many as it may, or it has left already. Raises ProcessLookupError, OSError."""
        data = _received(connection)
        if data == b"":
            connection.close()
            return
        pid, caller, peer = self._callers.of(connection)
        obstacle = None
        if caller.connections >= self._limits.connections:
            obstacle = self._crowd
        elif connection.fileno() >= self._last_file:
            obstacle = _FULL
        if obstacle:
            if peer:
                os.close(peer.pidfd)
            caller.log_refusal(pid, "later", obstacle)
            if not data:
                connection.close()  # who has not asked yet asks again
            elif len(caller.put_off) < MOST_PUT_OFF and connection.fileno() < self._last_file // 2:
                loop = asyncio.get_running_loop()
                due = loop.time() + SECONDS_PUT_OFF
                if not caller.put_off:
                    loop.call_at(due, self._refuse_put_off, caller)
                caller.put_off.append((due, connection))
            else:
                _turn_away(connection, obstacle)
            return
        connection.setblocking(False)
        client = _Client(connection, peer or peer_of(connection), caller)
        self._clients.add(client)
        if data:
            self._turns.add(caller, partial(self._serve, client, data))
            return
        try:
            self._await_request(client)
        except OSError as error:  # the kernel watches no more files
            self.faults.note(error, f"cannot wait for the request of process {pid}")
            self._finish(client, b"")

    def _refuse_put_off(self, caller: Caller) -> None:
        loop = asyncio.get_running_loop()
        now, done = loop.time(), 0
        while caller.put_off and caller.put_off[0][0] <= now and done < ACCEPTED_AT_ONCE:
            _turn_away(caller.put_off.popleft()[1], self._crowd)
            done += 1
        if caller.put_off:
            loop.call_at(caller.put_off[0][0], self._refuse_put_off, caller)

    def _await_request(self, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(client.connection, self._on_request, client)
        client.silence = loop.call_later(SECONDS_TO_SEND, self._on_silence, client)

    def _on_request(self, client: _Client) -> None:
        data = _received(client.connection)
        if data is None:
            return
        self._forget_silence(client)
        if data:
            self._turns.add(client.caller, partial(self._serve, client, data))
        else:
            self._finish(client, b"")

    def _on_silence(self, client: _Client) -> None:
        self._forget_silence(client)
        self._finish(client, b"")

    def _forget_silence(self, client: _Client) -> None:
        if client.silence is not None:
            asyncio.get_running_loop().remove_reader(client.connection)
            client.silence.cancel()
            client.silence = None

    def _serve(self, client: _Client, data: bytes) -> None:
        """Reply on the spot to a request that need not wait, for a task of its own would double the time; else start one that waits."""
        try:
            answer = self._answer(client, data)
        except Exception as error:  # of this request alone: the allocator has undone it
            self.faults.note(error, f"cannot serve process {client.peer.pid}")
            answer = b""
        if isinstance(answer, bytes):
            self._finish(client, answer)
            return
        wait = asyncio.get_running_loop().create_task(answer)
        self._waits.add(wait)
        self._clients.discard(client)
        wait.add_done_callback(partial(self._on_waited, client))

    def _on_waited(self, client: _Client, wait: asyncio.Task[bytes]) -> None:
        self._waits.discard(wait)
        error = None if wait.cancelled() else wait.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            log.debug("client %d: %s", client.peer.pid, str(error) or type(error).__name__)
        elif error:
            self.faults.note(error, f"cannot serve process {client.peer.pid}")
        self._finish(client, b"" if wait.cancelled() or error else wait.result())

    def _finish(self, client: _Client, reply: bytes) -> None:
        self._clients.discard(client)
        try:
            client.finish(reply)
        except OSError as error:
            self.faults.note(error, f"cannot hang up on process {client.peer.pid}")

    def _answer(self, client: _Client, data: bytes) -> bytes | Coroutine[Any, Any, bytes]:
        """The reply, empty to hang up, or what to await for it: a CPU list, or room to send."""
        try:
            request = wire.parse(data)
        except wire.WireError as error:
            return self._refuse(client, error)
        if isinstance(request, wire.Show):
            return self._crowded(client) or self._answer_show(client, request)
        try:
            outcome = self._allocator.isolate(request, client.peer)
        except _FAILURES as error:
            return self._refuse(client, error)
        if isinstance(outcome, Waiting):
            return self._crowded(client) or self._answer_later(client, request, outcome)
        return _success(client, outcome)

    async def _answer_later(self, client: _Client, request: wire.Isolate, waiting: Waiting) -> bytes:
        """Wait as long as the client waits for its reply; it is refused at its deadline."""
        loop = asyncio.get_running_loop()
        seconds = max(request.timeout - SECONDS_BEFORE_DEADLINE, 0.0)
        with _counted(client.caller):
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
                return self._refuse(client, error)
            finally:
                for task in (work, left):
                    task.cancel()
                await asyncio.gather(work, left, return_exceptions=True)

    async def _isolate_later(self, client: _Client, request: wire.Isolate, waiting: Waiting) -> bytes:
        # In the same step as the allocator takes over the pidfd: when the agent stops, nothing comes between. The reply is sent at once, as
        # ending the tasks around this one takes turns of the loop.
        turn = partial(self._turns.wait, client.caller)
        client.send(_success(client, await self._allocator.isolate_later(request, client.peer, waiting, turn)))
        return b""

    async def _answer_show(self, client: _Client, request: wire.Show) -> bytes:
        with _counted(client.caller):
            await self._send_text(client.connection, self._show(request))
        return b""

    async def _send_text(self, connection: socket.socket, text: str) -> None:
        loop = asyncio.get_running_loop()
        data = text.encode()
        async with asyncio.timeout(SECONDS_TO_READ):
            await loop.sock_sendall(connection, wire.show_head(len(data)))
            for start in range(0, len(data), _SHOW_PACKET):
                await loop.sock_sendall(connection, data[start : start + _SHOW_PACKET])

    def _crowded(self, client: _Client) -> bytes:
        """The refusal of a request that would have to wait, when as many of its pod wait as may; else empty."""
        most = self._limits.waiting
        if client.caller.waiting < most:
            return b""
        text = f"{most} requests of this pod wait already (workloads.limits.waiting); try again when fewer do"
        return self._refuse(client, Refused(text, final=False))

    def _refuse(self, client: _Client, error: Exception) -> bytes:
        """The reply to a request that failed with WireError or one of ``_FAILURES``: empty when no reply helps."""
        pid = client.peer.pid
        if isinstance(error, ProcessLookupError):
            log.debug("cannot serve process %d: %s", pid, error)
            return b""
        if isinstance(error, OSError):
            # The agent cannot read what it must: the client asks again, up to its own deadline.
            self.faults.note(error, f"cannot serve process {pid}")
            return b""
        is_later = isinstance(error, StateError) or (isinstance(error, Refused) and not error.final)
        client.caller.log_refusal(pid, "later" if is_later else "never", str(error))
        return wire.refusal(wire.LATER if is_later else wire.NEVER, str(error))


def _turn_away(connection: socket.socket, obstacle: str) -> None:
    """Refuse a request that has not been taken on, and hang up; a client that has left gets no reply."""
    with connection, suppress(OSError):
        connection.send(_later(obstacle), socket.MSG_DONTWAIT)


@functools.cache
def _later(obstacle: str) -> bytes:
    return wire.refusal(wire.LATER, f"{obstacle}; try again when fewer clients ask")


def _received(connection: socket.socket) -> bytes | None:
    """The request, one byte longer than it may be if it is too long; empty when the client has left, None when it has not asked yet."""
    try:
        data = connection.recv(wire.MAX_REQUEST + 1, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""
    try:
        return data if data and connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK) else b""
    except OSError:  # as a rule: nothing more has come, and the client waits for the reply
        return data


@contextmanager
def _counted(caller: Caller) -> Iterator[None]:
    """Count a request of the caller as one that waits."""
    caller.waiting += 1
    try:
        yield
    finally:
        caller.waiting -= 1


def _success(client: _Client, environment: dict[str, str]) -> bytes:
    client.is_served = True
    return wire.ok(environment)
