"""The launcher's file in host directories: installed by rename, compared byte by byte, replaced when it was damaged."""

from __future__ import annotations

import os
from pathlib import Path

from cmk.model.errors import CmkError

LAUNCHER = "cmk"
OLD_LAUNCHER = "kcm"
MODE = 0o755


class InstallError(CmkError):
    """The launcher cannot be installed; the text names the path and, where there is one, the remedy."""


def install(source: Path, directory: Path, name: str = LAUNCHER) -> bool:
    """Make ``<directory>/<name>`` equal to ``source``; returns whether it was not. Raises InstallError."""
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
    """Remove files of the agent from a directory, if they exist."""
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
    """Remove an empty directory at ``target``, which rename cannot replace: runtimes create one for a file mount without a file."""
    if target.is_dir() and not target.is_symlink():
        try:
            target.rmdir()
        except OSError as error:
            raise InstallError(f"{target} is a directory that is not empty ({error.strerror}): move it away") from error
