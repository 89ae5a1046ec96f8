"""Writes to files whose content is the kernel's: cgroups, interrupt affinities."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path | str, text: str) -> None:
    """Write a line by one write(2): a buffered file would report the kernel's error only when it is closed, if at all. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
