"""What runs on a node's pools: processes, what they ask for, and what they hold."""

from __future__ import annotations

import msgspec

from cmk.model.choice import ANY_SOCKET
from cmk.model.onmove import OnMove
from cmk.model.pods import Pod


class Process(msgspec.Struct, frozen=True, order=True):
    """A process that no reused pid can impersonate: host pid and start time (clock ticks since boot)."""

    pid: int
    start: int


class Request(msgspec.Struct, frozen=True):
    """What one ``cmk isolate`` asks for, and who asks. ``pod`` is None for a process outside every pod."""

    pool: str
    process: Process
    cores: int = 1
    socket: int = ANY_SOCKET
    pod: Pod | None = None
    container: str = ""
    on_move: OnMove = OnMove()


class Task(msgspec.Struct, frozen=True):
    """What one ``cmk isolate`` started and holds. ``lists`` are list names of the pool; ``generation`` grows when they change."""

    process: Process
    pool: str
    lists: tuple[str, ...]
    pod: str = ""
    container: str = ""
    cores: int = 1
    socket: int = ANY_SOCKET
    on_move: OnMove = OnMove()
    generation: int = 1


class TasksFile(msgspec.Struct, frozen=True):
    """What a task file holds: void when ``boot`` is another."""

    boot: str
    tasks: list[Task] = []
    pods: list[Pod] = []
