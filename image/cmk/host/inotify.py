"""Notice changes in directories without polling: the two system calls that the standard library lacks (inotify(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

IN_ATTRIB, IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE = 0x4, 0x8, 0x40, 0x80, 0x200
IN_ONLYDIR = 0x01000000
_CHANGES = IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_ONLYDIR
_HEADER = struct.Struct("iIII")


class DirectoryWatch:
    """A descriptor (``fileno``) that becomes readable when an entry of a watched directory changes."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        self._paths: dict[int, Path] = {}

    def fileno(self) -> int:
        """For the event loop."""
        return self._fd

    def add(self, directory: Path) -> None:
        """Watch a directory's entries; raises OSError."""
        handle = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), ctypes.c_uint32(_CHANGES))
        self._paths[self._check(handle, str(directory))] = directory

    def read(self) -> set[Path]:
        """Paths that changed since the last call."""
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return set()
        changed, offset = set(), 0
        while offset < len(data):
            handle, _, _, length = _HEADER.unpack_from(data, offset)
            offset += _HEADER.size
            name = data[offset : offset + length].rstrip(b"\0")
            offset += length
            if handle in self._paths:
                changed.add(self._paths[handle] / os.fsdecode(name))
        return changed

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

    def _check(self, result: int, what: str) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), what)
        return int(result)
