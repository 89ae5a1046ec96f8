"""The launcher in host directories: put there by rename, checked byte by byte, put back when something damaged it."""

from __future__ import annotations

import os
from pathlib import Path

from cmk.model.errors import CmkError

LAUNCHER = "cmk"
OLD_LAUNCHER = "kcm"
MODE = 0o755


class InstallError(CmkError):
    """The launcher cannot be put in place; the text names the path and the remedy."""


def install(source: Path, directory: Path, name: str = LAUNCHER) -> bool:
    """Make ``<directory>/<name>`` equal to ``source``; returns whether anything had to be done. Raises InstallError."""
    target = directory / name
    content = source.read_bytes()
    if _is_intact(target, content):
        return False
    temporary = directory / f".{name}.new"
    try:
        _clear(target)
        temporary.unlink(missing_ok=True)
        temporary.write_bytes(content)
        temporary.chmod(MODE)
        temporary.rename(target)
    except OSError as error:
        raise InstallError(f"cannot install {target}: {error.strerror}") from error
    return True


def remove(directory: Path, *names: str) -> None:
    """Remove what the agent put into a directory; what is gone already does not matter."""
    for name in names:
        (directory / name).unlink(missing_ok=True)


def _is_intact(target: Path, content: bytes) -> bool:
    try:
        with target.open("rb") as file:
            status = os.fstat(file.fileno())
            return not target.is_symlink() and status.st_mode & 0o777 == MODE and file.read(len(content) + 1) == content
    except OSError:
        return False


def _clear(target: Path) -> None:
    """A container runtime makes a directory of a file mount that it does not find: rename cannot replace that one."""
    if target.is_dir() and not target.is_symlink():
        try:
            target.rmdir()
        except OSError as error:
            raise InstallError(f"{target} is a directory with something in it ({error.strerror}): move it away") from error
