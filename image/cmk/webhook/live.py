"""A value that is loaded from files, and loaded again when they change; while the new files cannot be used, the last good value stays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from cmk.model.errors import CmkError

log = logging.getLogger(__name__)

_T = TypeVar("_T")
# Where a path leads, and the inode, time and size of the file there; zeros where there is none.
_Print = tuple[str, int, int, int]


class Live(Generic[_T]):
    """``value`` is the last good one; ``problem`` says why it is not the newest, and is empty when it is.

    ``load`` makes a value; it raises CmkError or OSError when the files cannot be used. ``files`` names the files that a value came from.
    kubelet replaces the files of a ConfigMap or Secret by moving a symbolic link, so what counts is where a path leads.
    """

    def __init__(self, what: str, load: Callable[[], _T], files: Callable[[_T], Iterable[Path]]) -> None:
        self._what, self._load, self._files = what, load, files
        self.problem = ""
        self.failures = 0
        self._seen: dict[Path, _Print] = {}
        self.value = self._newest()

    def refresh(self) -> bool:
        """Load again if a file has changed or the last load failed; True when there is a new value."""
        # The file at fault may be one that only the new files name, or may need no more than other permissions: try again without a sign.
        if not self.problem and _fingerprints(self._seen) == self._seen:
            return False
        return self.reload()

    def reload(self) -> bool:
        """Load again, also without a change of files; True when there is a new value. A problem that stays is logged and counted once."""
        before, self._seen = self._seen, _fingerprints(self._seen)
        try:
            self.value = self._newest()
        except (CmkError, OSError) as error:
            problem = f"{self._what}: {error}"
            if problem != self.problem or self._seen != before:
                self.failures += 1
                log.error("%s; the previous one stays in use", problem)
            self.problem = problem
            return False
        self.problem = ""
        log.info("%s: changed", self._what)
        return True

    def _newest(self) -> _T:
        """Load a value all of whose files were looked at before the load, so that whatever is written later makes a difference.

        Only a value tells which files it came from. When these are other files than before, they are looked at and loaded once more.
        """
        while True:
            value = self._load()
            paths = list(self._files(value))
            if all(path in self._seen for path in paths):
                self._seen = {path: self._seen[path] for path in paths}
                return value
            self._seen = _fingerprints(paths)


def _fingerprints(paths: Iterable[Path]) -> dict[Path, _Print]:
    return {path: _fingerprint(path) for path in paths}


def _fingerprint(path: Path) -> _Print:
    try:
        real = path.resolve()
        status = real.stat()
    except OSError:
        return (str(path), 0, 0, 0)
    return (str(real), status.st_ino, status.st_mtime_ns, status.st_size)
