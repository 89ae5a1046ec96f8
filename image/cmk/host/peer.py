"""The process at the other end of a unix socket, from the kernel: correct across user, pid and network namespaces.

A pid may belong to another process as soon as its own has ended. So the descriptor comes first: what was read, or done, by the pid concerns
the peer only if the descriptor says afterwards that the peer has not ended.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from cmk.host.procfs import Procfs
from cmk.model.tasks import Process

# Linux 6.5; the socket module of Python 3.11-3.13 does not name it.
SO_PEERPIDFD = 77
# What Linux 6.5 to 6.15 answer for a peer that has ended and been waited for.
_REAPED = (errno.EINVAL, errno.ESRCH)
# What pidfd_open answers for a pid that no process has, some of them when a thread has it.
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)

_T = TypeVar("_T")


class Peer(msgspec.Struct, frozen=True):
    """Host pid and a descriptor that becomes readable when the process ends. The owner closes ``pidfd``."""

    pid: int
    pidfd: int

    def has_ended(self) -> bool:
        """Whether the process has ended, so that its pid may be another's."""
        return has_ended(self.pidfd)

    def read(self, read: Callable[[int], _T]) -> _T:
        """What ``read`` tells of the peer by its pid; raises ProcessLookupError when that may have been another's by then."""
        answer = read(self.pid)
        if self.has_ended():
            raise _gone(self.pid)
        return answer


def peer_of(connection: socket.socket, procfs: Procfs | None = None) -> Peer:
    """The process that connected; raises ProcessLookupError when it has ended already, OSError when no descriptor is free.

    ``procfs`` is read on kernels before 6.5 only.
    """
    accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid == 0:
        raise ProcessLookupError("the peer is in a pid namespace outside the one of this process")
    try:
        pidfd = struct.unpack("i", connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4))[0]
    except OSError as error:
        if error.errno in _REAPED:
            raise _gone(pid) from error
        if error.errno != errno.ENOPROTOOPT:
            raise
        return _peer_by_number(connection, procfs or Procfs(), pid, (uid, gid), accepted)
    # Both come from the same entry of the kernel: while the process of the descriptor, which is close-on-exec, lives, the pid is its own.
    if has_ended(pidfd):
        os.close(pidfd)
        raise _gone(pid)
    return Peer(pid, pidfd)


def open_process(procfs: Procfs, process: Process) -> Peer:
    """A process that is known by its pid and start, as a peer; raises ProcessLookupError when it has ended."""
    peer = Peer(process.pid, open_pidfd(process.pid))
    try:
        if not procfs.is_alive(process) or peer.has_ended():
            raise _gone(process.pid)
    except BaseException:
        os.close(peer.pidfd)
        raise
    return peer


def open_pidfd(pid: int) -> int:
    """A descriptor of the process that has this pid now; raises ProcessLookupError when there is none."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            raise _gone(pid) from error
        raise


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended by now, all of its threads, which the event loop may not have seen yet."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _peer_by_number(connection: socket.socket, procfs: Procfs, pid: int, owner: tuple[int, int], accepted: float) -> Peer:
    """The peer on a kernel before 6.5, by its pid alone: a process that is not the one that connected is refused where it shows.

    It shows by its start after the connection was accepted, by another user or group, and by a connection that nobody holds any more.
    """
    peer = Peer(pid, open_pidfd(pid))
    try:
        ticks = os.sysconf("SC_CLK_TCK")
        is_later = procfs.start_time(pid) > accepted * ticks
        if is_later or procfs.credentials(pid) != owner or _hung_up(connection) or peer.has_ended():
            raise _gone(pid)
    except BaseException:
        os.close(peer.pidfd)
        raise
    return peer


def _gone(pid: int) -> ProcessLookupError:
    return ProcessLookupError(f"process {pid} is gone")


def _hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return bool(poll.poll(0))
