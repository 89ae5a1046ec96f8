"""The process at the other end of a unix socket, from the kernel: correct across user, pid and network namespaces."""

from __future__ import annotations

import os
import select
import socket
import struct

import msgspec

# Linux 6.5; the socket module of Python 3.11-3.13 does not name it.
SO_PEERPIDFD = 77


class Peer(msgspec.Struct, frozen=True):
    """Host pid and a descriptor that becomes readable when the process ends. The owner closes ``pidfd``."""

    pid: int
    pidfd: int


def peer_of(connection: socket.socket) -> Peer:
    """The process that connected; raises ProcessLookupError when it has ended already."""
    pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    if pid == 0:
        raise ProcessLookupError("the peer is in a pid namespace outside the one of this process")
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4)
        pidfd = struct.unpack("i", raw)[0]
        os.set_inheritable(pidfd, False)
    except OSError:
        pidfd = os.pidfd_open(pid)
        # Before 6.5: had the peer ended and its pid been reused in between, the connection would be closed.
        if _hung_up(connection):
            os.close(pidfd)
            raise ProcessLookupError(f"process {pid} is gone") from None
    return Peer(pid, pidfd)


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended by now, which the event loop may not have seen yet."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))
