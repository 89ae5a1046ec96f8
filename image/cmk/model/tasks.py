"""Tasks: the processes that ``cmk isolate`` has started on a node's pools, what each asked for and the CPU lists that it holds."""

from __future__ import annotations

import msgspec

from cmk.model.choice import ANY_SOCKET
from cmk.model.onmove import OnMove
from cmk.model.pods import Pod


class Process(msgspec.Struct, frozen=True, order=True):
    """A process, told from others that have had its pid by its start: pid on the host, and start in clock ticks since boot."""

    pid: int
    start: int


class Origin(msgspec.Struct, frozen=True):
    """Where the processes of a task of an exclusive pool outside pods come from: its first process, and the ancestors of this.

    They are those that it had when it asked. When one of its descendants loses its parent, another of these becomes the parent.
    """

    first: Process
    ancestors: tuple[Process, ...]


class Request(msgspec.Struct, frozen=True):
    """What one ``cmk isolate`` asks for, and for which process. ``pod`` is None for a process outside every pod."""

    pool: str
    process: Process
    cores: int = 1
    socket: int = ANY_SOCKET
    pod: Pod | None = None
    container: str = ""
    on_move: OnMove = OnMove()
    origin: Origin | msgspec.UnsetType = msgspec.UNSET


class Task(msgspec.Struct, frozen=True):
    """A process that ``cmk isolate`` became, and what it holds: ``lists`` of the pool by name; ``generation`` grows when they change."""

    process: Process
    pool: str
    lists: tuple[str, ...]
    pod: str = ""
    container: str = ""
    cores: int = 1
    socket: int = ANY_SOCKET
    on_move: OnMove = OnMove()
    generation: int = 1
    origin: Origin | msgspec.UnsetType = msgspec.UNSET  # which is not written


class TasksFile(msgspec.Struct, frozen=True):
    """The content of a task file: void after a reboot, when the node's boot id is no longer ``boot``."""

    boot: str
    tasks: list[Task] = []
    pods: list[Pod] = []
