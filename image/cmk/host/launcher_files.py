"""The launcher's file in host directories: installed by rename, compared byte by byte, replaced when it was damaged."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

from cmk.host import foreign
from cmk.model.errors import CmkError

log = logging.getLogger(__name__)

LAUNCHER = "cmk"
OLD_LAUNCHER = "kcm"
MODE = 0o755


class InstallError(CmkError):
    """The launcher cannot be installed; the text names the path and, where there is one, the remedy."""


def install(source: Path, directory: Path, name: str = LAUNCHER) -> bool:
    """Make ``<directory>/<name>`` equal to ``source``; returns whether it was not. Raises InstallError, or OSError of the source."""
    content = source.read_bytes()
    target = directory / name
    try:
        with foreign.opened(directory) as there:
            if there.holds(name, content, MODE):
                return False
            there.put(name, content, MODE)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise InstallError(f"{target} is a directory that is not empty: move it away") from error
        raise InstallError(f"cannot install {target}: {error.strerror}") from error
    return True


def remove(directory: Path, *names: str) -> None:
    """Remove files of the agent from a directory, if they exist. What cannot be removed is logged."""
    try:
        with foreign.opened(directory) as there:
            for name in names:
                _remove(there, directory, name)
            there.remove_leftovers()
    except OSError as error:
        log.error("cannot remove the agent's files from %s: %s", directory, error.strerror)


def _remove(there: foreign.ForeignDirectory, directory: Path, name: str) -> None:
    try:
        there.remove(name)
    except OSError as error:
        log.error("cannot remove %s/%s: %s", directory, name, error.strerror)
