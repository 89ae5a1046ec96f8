"""Who calls: the pod or the user that a connection counts for, and for how long that is remembered."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from math import inf

import pytest

from cmk.agent import callers
from cmk.agent.callers import Caller, Callers
from cmk.agent.limits import Limits
from cmk.host.peer import Peer
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, PodContainer


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """A connection of this very process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> list[PodContainer | Exception]:
    """The place of every process; what is looked up leaves the list, except the last."""
    places: list[PodContainer | Exception] = []

    def pod_container(_: Procfs, __: int) -> PodContainer:
        found = places.pop(0) if len(places) > 1 else places[0]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(Procfs, "pod_container", pod_container)
    return places


def look_up(table: Callers, connection: socket.socket) -> tuple[int, Caller]:
    """Pid and caller of a connection."""
    pid, caller, peer = table.of(connection)
    if peer:
        os.close(peer.pidfd)
    return pid, caller


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (PodContainer("u1", "c"), "pod u1"),
        (PodContainer(), f"user {os.getuid()}"),
        (MixedCgroupsError("two pods"), f"user {os.getuid()}"),
    ],
)
def test_a_connection_counts_for_its_pod_or_its_user(
    connection: socket.socket, place: list[PodContainer | Exception], found: PodContainer | Exception, name: str
) -> None:
    place.append(found)
    pid, caller = look_up(Callers(Procfs(), Limits(), Clock()), connection)
    assert (pid, caller.name) == (os.getpid(), name)


def test_a_process_that_has_ended_counts_for_nobody(connection: socket.socket, place: list[PodContainer | Exception]) -> None:
    place.append(ProcessLookupError("gone"))
    with pytest.raises(ProcessLookupError):
        Callers(Procfs(), Limits(), Clock()).of(connection)


def test_a_pid_that_was_used_again_while_its_pod_was_read_counts_for_nobody(
    connection: socket.socket, place: list[PodContainer | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.append(PodContainer("u2"))
    opened: list[int] = []

    def ended(connection: socket.socket, procfs: Procfs) -> Peer:
        """The peer has ended as soon as it is known."""
        opened.append(os.eventfd(1))
        return Peer(os.getpid(), opened[0])

    monkeypatch.setattr(callers, "peer_of", ended)
    table = Callers(Procfs(), Limits(), Clock())
    with pytest.raises(ProcessLookupError):
        table.of(connection)
    assert not table._callers
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_pid_is_looked_up_once_in_a_while(connection: socket.socket, place: list[PodContainer | Exception]) -> None:
    place += [PodContainer("u1"), PodContainer("u2")]
    clock = Clock()
    table = Callers(Procfs(), Limits(), clock)
    clock.now = 1.0
    first = look_up(table, connection)[1]
    assert look_up(table, connection)[1] is first
    clock.now += 2 * callers.SECONDS_REMEMBERED
    assert look_up(table, connection)[1].name == "pod u2"


def test_pods_have_a_rate_and_root_of_the_node_has_none(connection: socket.socket, place: list[PodContainer | Exception]) -> None:
    place += [PodContainer("u1"), PodContainer()]
    clock = Clock()
    table = Callers(Procfs(), Limits(requests_per_second=1), clock)
    in_pod = look_up(table, connection)[1]
    clock.now += 1.0
    outside = look_up(table, connection)[1]
    for caller in (in_pod, outside):
        caller.requests.extend([lambda: None, lambda: None])
        caller.next_work(1.0)
    assert in_pod.seconds_until_work(1.0) == 1.0
    assert outside.seconds_until_work(1.0) == (0.0 if os.getuid() == 0 else 1.0)
    outside.next_work(1.0)
    assert outside.seconds_until_work(1.0) in (inf, 1.0)


def test_idle_callers_are_forgotten_when_there_are_many(
    connection: socket.socket, place: list[PodContainer | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callers, "_FEW_CALLERS", 2)
    place += [PodContainer(f"u{number}") for number in range(10)]
    clock = Clock()
    table = Callers(Procfs(), Limits(), clock)
    busy = look_up(table, connection)[1]
    busy.connections = 1
    for _ in range(9):
        clock.now += 1.0
        look_up(table, connection)
    assert len(table._callers) == 2
    assert busy in table._callers.values()
