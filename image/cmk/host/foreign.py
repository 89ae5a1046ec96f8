"""Files in directories that pods may write: whoever is there can swap, link or remove any name at any moment.

So a directory is opened once per operation, nothing in it is opened, changed or removed by a path, and no link is followed. New content
is made in a directory of its own that only the agent's user can enter, and gets its name by rename: what has a name there may be an
intruder's, but what the agent writes, and the mode it sets, never land in a file that it did not make.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from socket import socket

log = logging.getLogger(__name__)

LISTED = 10_000
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PRIVATE = ".cmk-new-"
_NEW = "new"


class ForeignDirectory:
    """An open directory; ``fd`` is its descriptor. Names are those of its entries. All methods raise OSError."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @contextmanager
    def below(self, name: str) -> Iterator[ForeignDirectory]:
        """Open a directory in this one, and no link to one."""
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
        try:
            yield ForeignDirectory(fd)
        finally:
            os.close(fd)

    def make_below(self, name: str) -> None:
        """Make a directory unless there is one, in place of a link, FIFO, socket or device too: those hold nothing. A file stays."""
        with suppress(FileNotFoundError):
            mode = self.status(name).st_mode
            if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                os.unlink(name, dir_fd=self._fd)
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=self._fd)

    def status(self, name: str) -> os.stat_result:
        """The status of an entry itself."""
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    def names(self) -> list[str]:
        """The names of entries, at most ``LISTED``: a pod may have made any number."""
        with os.scandir(self._fd) as entries:
            return [entry.name for entry in islice(entries, LISTED)]

    def holds(self, name: str, content: bytes, mode: int) -> bool:
        """Whether an entry is a file of the agent's user with this content and mode."""
        try:
            # A device or FIFO opened in earnest may wait or act; O_PATH does neither, and names the same file until the end.
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            wanted = stat.S_IFREG | mode, os.geteuid(), len(content)
            return (status.st_mode, status.st_uid, status.st_size) == wanted and _read(fd, len(content) + 1) == content
        finally:
            os.close(fd)

    def put(self, name: str, content: bytes, mode: int) -> None:
        """Replace an entry by a file as a whole."""
        with self._private() as inside:
            fd = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=inside)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                os.fchmod(fd, mode)
            self._publish(inside, name)

    def listen(self, listener: socket, name: str, mode: int, backlog: int) -> int:
        """Replace an entry by the file of a socket that listens.

        Returns a descriptor of that file: while it is open no other file can have its inode.
        """
        with self._private() as inside:
            before = os.umask(0o777 & ~mode)  # bind sets the mode by it; no thread makes files meanwhile
            try:
                listener.bind(f"/proc/self/fd/{inside}/{_NEW}")
            finally:
                os.umask(before)
            listener.listen(backlog)
            file = os.open(_NEW, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
            try:
                self._publish(inside, name)
            except OSError:
                os.close(file)
                raise
        return file

    def remove(self, name: str) -> None:
        """Remove an entry, if there is one; a directory is an error."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def remove_below(self, name: str) -> None:
        """Remove a directory unless something is in it."""
        with suppress(OSError):
            os.rmdir(name, dir_fd=self._fd)

    def remove_leftovers(self) -> None:
        """Remove what an agent that was killed has left half done."""
        for name in self.names():
            if name.startswith(_PRIVATE):
                with suppress(OSError), self._inside(name):  # somebody else's stays
                    pass

    @contextmanager
    def _private(self) -> Iterator[int]:
        """A new directory in this one, as a descriptor; what has not been moved out of it ends with it."""
        name = f"{_PRIVATE}{os.urandom(16).hex()}"
        os.mkdir(name, 0o700, dir_fd=self._fd)
        with self._inside(name) as fd:
            yield fd

    @contextmanager
    def _inside(self, name: str) -> Iterator[int]:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
        try:
            status = os.fstat(fd)
            if (status.st_mode & 0o777, status.st_uid) != (0o700, os.geteuid()):
                raise PermissionError(errno.EPERM, f"somebody has replaced {name}, which only the agent may enter", name)
            try:
                yield fd
            finally:
                with suppress(FileNotFoundError):  # the usual case: it has its name
                    os.unlink(_NEW, dir_fd=fd)
        finally:
            os.close(fd)
            self.remove_below(name)

    def _publish(self, inside: int, name: str) -> None:
        try:
            os.replace(_NEW, name, src_dir_fd=inside, dst_dir_fd=self._fd)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=self._fd)  # an empty one: runtimes create it for a file mount without a file
            os.replace(_NEW, name, src_dir_fd=inside, dst_dir_fd=self._fd)


@contextmanager
def opened(path: Path) -> Iterator[ForeignDirectory]:
    """Open a directory whose own path no pod can change; raises OSError."""
    fd = os.open(path, _DIRECTORY)
    try:
        yield ForeignDirectory(fd)
    finally:
        os.close(fd)


class Troubles:
    """What does not work in which place. A text is logged when it is new, and kept until the place works again."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def note(self, place: Path, text: str) -> None:
        """Keep what is wrong in a place, instead of what was; "" when nothing is."""
        if not text:
            self._texts.pop(str(place), None)
        elif self._texts.get(str(place)) != text:
            self._texts[str(place)] = text
            log.error("%s", text)

    @property
    def texts(self) -> list[str]:
        """All that is wrong, sorted by place."""
        return [text for _, text in sorted(self._texts.items())]


def _read(fd: int, size: int) -> bytes:
    """The first bytes of a file that is open as a path; b"" when it cannot be read at once, as with a lease on it."""
    try:
        with open(f"/proc/self/fd/{fd}", "rb", opener=_opener) as file:  # of this very file
            return file.read(size)
    except OSError:
        return b""


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
