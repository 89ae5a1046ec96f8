"""Files that the kernel answers for: cgroups, interrupt affinities."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path | str, text: str) -> None:
    """One write(2): a buffered file would tell the kernel's answer only when it is closed, if at all. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
