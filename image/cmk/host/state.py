"""State files: replaced as a whole by rename, so that a kill at any write leaves the old or the new content."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cmk.model.errors import CmkError

_T = TypeVar("_T")


class StateError(CmkError):
    """A state file that cannot be read or written; the text names it."""


def write(path: Path, value: Any, *, durable: bool, mode: int = 0o600) -> None:  # noqa: ANN401  # any struct
    """Replace ``path`` by ``value`` as JSON; raises StateError. ``durable`` adds fsync of file and directory, against power cuts."""
    directory, name = os.path.split(path)
    temporary = f"{directory}/.{name}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(value))
            file.flush()
            if durable:
                os.fsync(fd)
        os.replace(temporary, path)  # noqa: PTH105  # once per allocation: Path doubles the cost
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path, kind: type[_T]) -> _T | None:
    """Read a file of ``write``; None when it does not exist. Raises StateError when it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StateError(f"cannot use {path}: {error}; move it away to start afresh") from error


class NodeLock:
    """The lock of a node: its holder is the only allocator until it releases the lock or ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Wait for the lock as long as it takes; raises StateError."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        except OSError as error:
            raise StateError(f"cannot lock {self._path}: {error.strerror}") from error

    def release(self) -> None:
        """Release the lock to the next process that waits."""
        os.close(self._fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
