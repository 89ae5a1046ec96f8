"""Who calls the agent, and what each has of it: one ``Caller`` for each pod, and for each user outside pods."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from math import inf

from cmk.agent.limits import Limits
from cmk.host.peer import Peer, peer_of
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError
from cmk.model.printable import printable

log = logging.getLogger(__name__)

# For how long a pid's caller is remembered, so that a flood does not read procfs for each connection. It is for counting alone: an
# allocation always reads to which pod the process belongs.
SECONDS_REMEMBERED = 0.1
REFUSALS_LOGGED = 10
SECONDS_OF_REFUSALS = 60.0
_FEW_CALLERS = 256
_CREDENTIALS = struct.Struct("3i")


class Caller:
    """A pod, or a user outside pods, and what it has: open ``connections``, requests that are ``waiting``, and work to be done in turn.

    Its ``requests`` are served at no more than ``rate`` a second; ``retries`` of those that wait do not count.
    ``put_off`` are connections that will be refused, and when; ``has_turn`` belongs to ``Turns``.
    """

    def __init__(self, name: str, rate: float, now: float) -> None:
        self.name = name
        self.connections = 0
        self.waiting = 0
        self.requests: deque[Callable[[], None]] = deque()
        self.retries: deque[Callable[[], None]] = deque()
        self.put_off: deque[tuple[float, socket.socket]] = deque()
        self.has_turn = False
        self._rate = rate
        self._credit = rate
        self._since = now
        self._refusals = 0
        self._summary: asyncio.TimerHandle | None = None

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do, now or later."""
        return bool(self.retries or self.requests)

    def next_work(self, now: float) -> Callable[[], None] | None:
        """What to do in its turn; None when there is nothing, or nothing that may be done yet."""
        if self.retries:
            return self.retries.popleft()
        if self.requests and self._credit_at(now) >= 1:
            self._credit -= 1
            return self.requests.popleft()
        return None

    def seconds_until_work(self, now: float) -> float:
        """For how long nothing of what it has to do may be done; infinite when there is nothing."""
        if self.retries:
            return 0.0
        if not self.requests:
            return inf
        missing = 1 - self._credit_at(now)
        return missing / self._rate if missing > 0 else 0.0

    def is_idle(self, now: float) -> bool:
        """Whether forgetting it changes nothing."""
        return not (self.connections or self.put_off or self.has_work or self._summary) and self._credit_at(now) >= self._rate

    def log_refusal(self, pid: int, when: str, text: str) -> None:
        """Log a refusal; after the first ones of a minute only their number, at its end."""
        self._refusals += 1
        if self._summary is None:
            self._summary = asyncio.get_running_loop().call_later(SECONDS_OF_REFUSALS, self._end_minute)
        if self._refusals <= REFUSALS_LOGGED:
            log.info("refused process %d of %s (%s): %s", pid, self.name, when, printable(text))

    def _end_minute(self) -> None:
        if self._refusals > REFUSALS_LOGGED:
            log.info("refused %d more requests of %s: not logged one by one", self._refusals - REFUSALS_LOGGED, self.name)
        self._refusals, self._summary = 0, None

    def stop(self) -> None:
        """Drop its work and what is left to log."""
        self.requests.clear()
        self.retries.clear()
        while self.put_off:
            self.put_off.pop()[1].close()
        if self._summary is not None:
            self._summary.cancel()
            self._end_minute()

    def _credit_at(self, now: float) -> float:
        if self._rate == inf:
            return inf
        self._credit = min(self._credit + (now - self._since) * self._rate, self._rate)
        self._since = now
        return self._credit


class Callers:
    """All callers by name. Their number is that of the node's pods and users, and those that are idle are forgotten."""

    def __init__(self, procfs: Procfs, limits: Limits, clock: Callable[[], float]) -> None:
        self._procfs = procfs
        self._limits = limits
        self._clock = clock
        self._callers: dict[str, Caller] = {}
        self._by_pid: dict[int, Caller] = {}
        self._remembered_until = 0.0

    def of(self, connection: socket.socket) -> tuple[int, Caller, Peer | None]:
        """Pid and caller of a connection, and its peer if it had to be asked, whose ``pidfd`` the caller of this closes.

        Raises ProcessLookupError when the process has ended or cannot be seen from here, OSError when no descriptor is free.
        """
        pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if not pid:
            raise ProcessLookupError("the peer is in a pid namespace outside the one of this process")
        now = self._clock()
        if now > self._remembered_until:
            self._by_pid.clear()
            self._remembered_until = now + SECONDS_REMEMBERED
        if caller := self._by_pid.get(pid):
            return pid, caller, None
        peer = peer_of(connection, self._procfs)
        try:
            caller = self._by_pid[pid] = self._named(self._pod_of(peer), uid, now)
        except BaseException:
            os.close(peer.pidfd)
            raise
        return pid, caller, peer

    def stop(self) -> None:
        """Drop the work of all callers."""
        for caller in self._callers.values():
            caller.stop()

    def _pod_of(self, peer: Peer) -> str:
        try:
            return peer.read(self._procfs.pod_container).pod
        except MixedCgroupsError:
            return ""  # the allocator refuses it

    def _named(self, pod: str, uid: int, now: float) -> Caller:
        name = f"pod {pod}" if pod else f"user {uid}"
        caller = self._callers.get(name)
        if caller is None:
            if len(self._callers) >= _FEW_CALLERS:
                self._by_pid.clear()
                self._callers = {name: caller for name, caller in self._callers.items() if not caller.is_idle(now)}
            # Root outside pods administrates the node: it may run as many commands as it likes.
            rate = inf if not pod and uid == 0 else float(self._limits.requests_per_second)
            caller = self._callers[name] = Caller(name, rate, now)
        return caller
