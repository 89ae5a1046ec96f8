"""Something made from files that is made anew when they change, and kept as it was when the new files are no good."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from cmk.model.errors import CmkError

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_Print = tuple[tuple[str, int, int, int], ...]


class Live(Generic[_T]):
    """``value`` is the last good one; ``problem`` says why it is not the newest, and is empty when it is.

    ``load`` makes a value and raises CmkError or OSError. ``files`` tells which files a value came from; kubelet replaces those of a
    ConfigMap or Secret by moving a symbolic link, so what counts is where a path leads.
    """

    def __init__(self, what: str, load: Callable[[], _T], files: Callable[[_T], Iterable[Path]]) -> None:
        self._what, self._load, self._files = what, load, files
        self.problem = ""
        self.failures = 0
        self.value = load()
        self._seen = _fingerprint(files(self.value))

    def refresh(self) -> bool:
        """Look whether a file has changed; True when there is a new value."""
        seen = _fingerprint(self._files(self.value))
        if seen == self._seen:
            return False
        self._seen = seen
        return self.reload()

    def reload(self) -> bool:
        """Make it anew, whether a file has changed or not; True when there is a new value."""
        try:
            value = self._load()
        except (CmkError, OSError) as error:
            self.problem = f"{self._what}: {error}"
            self.failures += 1
            log.error("%s; the one before stays in use", self.problem)
            return False
        self.value = value
        self.problem = ""
        # The new value may come from other files than the old one did.
        self._seen = _fingerprint(self._files(value))
        log.info("%s: changed", self._what)
        return True


def _fingerprint(paths: Iterable[Path]) -> _Print:
    return tuple(_of(path) for path in paths)


def _of(path: Path) -> tuple[str, int, int, int]:
    try:
        real = path.resolve()
        status = real.stat()
    except OSError:
        return (str(path), 0, 0, 0)
    return (str(real), status.st_ino, status.st_mtime_ns, status.st_size)
