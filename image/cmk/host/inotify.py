"""Watches on directories without polling: the two system calls of inotify(7), which the standard library lacks."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from pathlib import Path

IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE = 0x4, 0x8, 0x40, 0x80, 0x200
IN_MODIFY, IN_CREATE = 0x2, 0x100
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR, IN_ISDIR = 0x4000, 0x8000, 0x01000000, 0x40000000
# REPLACED: events of files on disk that are replaced or damaged. WRITTEN: events of cgroup files, which are written in place.
REPLACED = IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE
WRITTEN = IN_MODIFY | IN_CREATE | IN_DELETE
_HEADER = struct.Struct("iIII")
_READS = 16  # the kernel queues 16384 events (fs.inotify.max_queued_events), 512 KiB of short names


class DirectoryWatch:
    """A descriptor (``fileno``) that becomes readable when one of ``events`` happens to an entry of a watched directory.

    ``overflowed`` is True when the kernel dropped events that the last ``read`` should have returned.
    """

    def __init__(self, events: int = REPLACED) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = ctypes.c_uint32(events | IN_ONLYDIR)
        self._fd = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        self._paths: dict[int, str] = {}
        self.overflowed = False

    def fileno(self) -> int:
        """The inotify descriptor, for the event loop."""
        return self._fd

    def add(self, directory: Path) -> None:
        """Watch a directory's entries until the directory is removed; raises OSError."""
        handle = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), self._events)
        self._paths[self._check(handle, str(directory))] = str(directory)

    def read(self) -> dict[Path, bool]:
        """Paths that changed since the last call, and whether each is a directory.

        Of a queue that fills as fast as it is read, the rest stays for the next call.
        """
        changed: dict[str, bool] = {}
        self.overflowed = False
        for data in self._queued():
            offset = 0
            while offset < len(data):
                handle, mask, _, length = _HEADER.unpack_from(data, offset)
                offset += _HEADER.size
                name = data[offset : offset + length].rstrip(b"\0")
                offset += length
                if mask & IN_Q_OVERFLOW:
                    self.overflowed = True
                elif mask & IN_IGNORED:
                    self._paths.pop(handle, None)
                elif handle in self._paths:
                    changed[f"{self._paths[handle]}/{os.fsdecode(name)}"] = bool(mask & IN_ISDIR)
        return {Path(path): directory for path, directory in changed.items()}

    def drain(self) -> None:
        """Forget what has changed, for a reader who looks at the whole directory after any change."""
        for _ in self._queued():
            pass

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

    def _queued(self) -> Iterator[bytes]:
        for _ in range(_READS):
            try:
                yield os.read(self._fd, 65536)
            except BlockingIOError:
                return

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), what)
        return int(result)
