"""State files: JSON with a check, replaced as a whole by rename, with the generation before beside it; and the lock of a node.

A kill at any write leaves the old or the new content. Damage is told by the check, which is the last key of the object in the file (of the
last one, if it is a list of objects): ``"check":"LENGTH-CRC32"``, the decimal length of the file without this key, and its CRC-32 in eight
hex digits. Versions of cmk that know no check ignore the key; their files have none, and are read unless they have an unknown key.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import zlib
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import msgspec

from cmk.model.errors import CmkError

_T = TypeVar("_T")

# The bytes of a file in parts: hundreds of kilobytes, once per allocation, are not copied to join them.
Data = tuple[bytes | memoryview, ...]

LARGEST = 64 << 20  # bytes; a journal, the largest of all, has about 60 for each thread that moves
_CHECK = re.compile(rb',"check":"[0-9]+-[0-9a-f]{8}"(\}\]?)\Z')
_LONGEST_CHECK = 64  # bytes


class StateError(CmkError):
    """A state file that cannot be read or written; the text names it."""


class DamagedError(StateError):
    """A state file that is there and cannot be used."""


class StateFile(Generic[_T]):
    """A file and its previous generation, ``FILE.old``: at every instant one of them is whole.

    ``durable`` adds fsync of file and directory, against power cuts. Every method raises StateError.
    """

    def __init__(self, path: Path, kind: type[_T], *, durable: bool, mode: int = 0o600) -> None:
        self.path = path
        self.previous = path.with_name(f"{path.name}.old")
        self.fault = ""
        self._kind = kind
        self._durable = durable
        self._mode = mode
        self._is_damaged = False

    def read(self) -> _T | None:
        """The content, or that of the previous generation if the file is damaged or lost, which ``fault`` then says; None without both.

        Raises DamagedError when there is no whole generation.
        """
        self.fault = problem = ""
        value = None
        try:
            value = read(self.path, self._kind)
        except DamagedError as error:
            problem = str(error)
        self._is_damaged = bool(problem)
        if value is not None:
            return value
        try:
            value = read(self.previous, self._kind)
        except DamagedError as error:
            raise DamagedError(f"{problem or f'{self.path} is missing'}; {error}") from error
        if value is not None:
            self.fault = f"{problem or f'{self.path} is missing'}: going on with the generation before, {self.previous}"
        elif problem:
            raise DamagedError(problem)
        return value

    def write(self, value: _T) -> None:
        """Replace the file. What it has becomes the previous generation, unless ``read`` has found that damaged."""
        previous = None if self._is_damaged else self.previous
        replace(self.path, _sealed(value), durable=self._durable, mode=self._mode, previous=previous)
        self._is_damaged = False

    def delete(self) -> None:
        """Remove both generations, the previous one first: alone it would stand for a file that was lost; and what a kill has left."""
        for path in (self.previous, _new(self.previous), self.path, _new(self.path)):
            try:
                Path(path).unlink(missing_ok=True)
            except OSError as error:
                raise StateError(f"cannot remove {path}: {error.strerror}") from error


class TwinFile(StateFile[_T]):
    """A file that is written once and lasts until it is deleted. ``FILE.old`` is a second copy; without the file it means nothing."""

    def read(self) -> _T | None:
        """The content, by the copy if the file is damaged; None without the file. Raises DamagedError when both are damaged."""
        return super().read() if os.path.lexists(self.path) else None

    def write(self, value: _T) -> None:
        """Write the copy, then the file."""
        replace(self.previous, _sealed(value), durable=self._durable, mode=self._mode)
        replace(self.path, _sealed(value), durable=self._durable, mode=self._mode)


def write(path: Path, value: Any, *, durable: bool, mode: int = 0o600) -> None:  # noqa: ANN401  # any struct
    """Replace ``path`` by ``value`` as JSON with a check, and keep no previous generation; raises StateError."""
    replace(path, _sealed(value), durable=durable, mode=mode)


def replace(path: Path, data: Data, *, durable: bool, mode: int = 0o600, previous: Path | None = None) -> None:
    """Replace ``path``; what it has becomes ``previous``. ``durable`` adds fsync of file and directory. Raises StateError."""
    temporary = _new(path)
    try:
        try:
            _create(temporary, data, durable=durable, mode=mode)
            if previous is not None:
                _keep(path, previous)
            os.replace(temporary, path)  # noqa: PTH105  # once per allocation: Path doubles the cost
        except OSError:
            if os.path.isfile(temporary):  # noqa: PTH113  # it takes room on a disk that may be full
                os.unlink(temporary)  # noqa: PTH108
            raise
        if durable:
            _sync_directory(path.parent)
    except OSError as error:
        raise StateError(f"cannot write {path}: {error.strerror}") from error


def read(path: Path, kind: type[_T]) -> _T | None:
    """Read a file of ``write``, or of a version of cmk without checks; None when it does not exist. Raises DamagedError."""
    try:
        return _decode(_content(path), kind)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DamagedError(f"cannot use {path}: {reason}; move it away to start afresh") from error


class NodeLock:
    """The lock of a node: its holder is the only allocator until it releases the lock or ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Wait for the lock as long as it takes; raises StateError."""
        try:
            while not self._lock():
                os.close(self._fd)
        except OSError as error:
            raise StateError(f"cannot lock {self._path}: {error.strerror}") from error

    def release(self) -> None:
        """Release the lock to the next process that waits."""
        os.close(self._fd)

    def _lock(self) -> bool:
        """Wait for the lock; False if the file that is locked now is not at its path any more."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            return os.path.samestat(os.fstat(self._fd), os.lstat(self._path))
        except FileNotFoundError:
            return False


def _sealed(value: object) -> Data:
    """JSON of an object, or of a list of objects that is not empty, with its check."""
    content = msgspec.json.encode(value)
    end = len(content) - (2 if content.endswith(b"}]") else 1)
    return memoryview(content)[:end], _check_of(content), content[end:]


def _check_of(content: bytes) -> bytes:
    return b',"check":"%d-%08x"' % (len(content), zlib.crc32(content))


def _decode(data: bytes, kind: type[_T]) -> _T:
    """Raises ValueError, RecursionError."""
    if found := _CHECK.search(data, max(0, len(data) - _LONGEST_CHECK)):
        content = data[: found.start()] + found[1]
        if found[0] != _check_of(content) + found[1]:
            raise ValueError("it is damaged: its check does not fit")
    else:
        content = data
        _refuse_unknown_keys(content, kind)
    return msgspec.json.decode(content, type=kind)


def _refuse_unknown_keys(content: bytes, kind: Any) -> None:  # noqa: ANN401  # a struct, or a list of structs
    """A file without a check has no unknown key, or the check is among what is damaged."""
    item, *_ = get_args(kind) or (kind,)
    known = {field.encode_name for field in msgspec.structs.fields(item)}
    found = msgspec.json.decode(content, type=dict[str, msgspec.Raw] | list[dict[str, msgspec.Raw]])
    for keys in found if isinstance(found, list) else [found]:
        if unknown := sorted(keys.keys() - known):
            raise ValueError(f"it is damaged: it has no check, and an unknown key {unknown[0][:40]!r}")


def _content(path: Path) -> bytes:
    """Raises OSError, ValueError."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no regular file")
        if found.st_size > LARGEST:
            raise ValueError(f"it has {found.st_size} bytes, more than {LARGEST}")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(LARGEST)
    finally:
        os.close(fd)


def _new(path: Path) -> str:
    """Where new content of a file is made."""
    directory, name = os.path.split(path)
    return f"{directory}/.{name}.new"


def _create(path: str, data: Data, *, durable: bool, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, mode)
    except FileExistsError:  # of a writer that was killed
        os.unlink(path)  # noqa: PTH108
        fd = os.open(path, flags, mode)
    try:
        written = os.writev(fd, data)
        if written < sum(map(len, data)):  # a disk that is full takes a part
            left = b"".join(data)[written:]
            while left:
                left = left[os.write(fd, left) :]
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _keep(path: Path, previous: Path) -> None:
    """Make ``path`` known as ``previous`` too. It stays what it is, so that at every instant one of them is whole."""
    temporary = _new(previous)
    try:
        os.link(path, temporary)
    except FileNotFoundError:
        return  # nothing to keep
    except FileExistsError:  # of a writer that was killed
        os.unlink(temporary)  # noqa: PTH108
        os.link(path, temporary)
    os.replace(temporary, previous)  # noqa: PTH105


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a node now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
