"""A host directory with a launcher and a socket: made at the start, and made again when somebody damages them.

Pods may write such a directory. What they do there is looked at a few times a second at most, put right less and less often the more often
it happens, and never keeps the agent from serving in its other directories.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cmk.agent.server import SOCKET, Server
from cmk.host import foreign, launcher_files
from cmk.host.foreign import Troubles
from cmk.host.inotify import DirectoryWatch

log = logging.getLogger(__name__)

SECONDS_BEFORE_REPAIR = 0.1
MOST_SECONDS_BEFORE_REPAIR = 30.0
SECONDS_CALM = 60.0


class ServedDirectory:
    """One directory; ``names`` are those of the launcher, ``launcher`` is its source.

    ``troubles`` holds what does not work in it; ``on_trouble`` is called when that has changed.
    """

    def __init__(
        self, path: Path, names: tuple[str, ...], launcher: Path, server: Server, on_trouble: Callable[[], None]
    ) -> None:
        self.troubles = Troubles()
        self._path = path
        self._names = names
        self._launcher = launcher
        self._server = server
        self._on_trouble = on_trouble
        self._watch: DirectoryWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._pause = SECONDS_BEFORE_REPAIR
        self._calm_at = 0.0

    @property
    def is_serving(self) -> bool:
        """Whether clients can reach the agent here."""
        return self._server.is_intact(self._path)

    def start(self) -> None:
        """Install the launcher and listen; what cannot be is tried again. Raises OSError of the launcher's source."""
        with (
            suppress(OSError),
            foreign.opened(self._path) as there,
        ):  # a directory that cannot be opened is a trouble of the next line
            there.remove_leftovers()
        self._put_right()
        self._wait_for_change()

    def stop(self) -> None:
        """Stop looking; the files stay for the next agent."""
        if self._timer:
            self._timer.cancel()
        self._unwatch()

    def remove_files(self) -> None:
        """Remove launchers and socket from the host."""
        launcher_files.remove(self._path, *self._names, SOCKET)

    def _put_right(self) -> list[str]:
        """Make what is missing or differs; returns the names of what was."""
        made = []
        for name in self._names:
            try:
                if launcher_files.install(self._launcher, self._path, name):
                    made.append(name)
                self.troubles.note(self._path / name, "")
            except launcher_files.InstallError as error:
                self.troubles.note(self._path / name, str(error))
        try:
            if not self._server.is_intact(self._path):
                self._server.reopen(self._path)
                made.append(SOCKET)
            self.troubles.note(self._path / SOCKET, "")
        except OSError as error:
            self.troubles.note(self._path / SOCKET, f"cannot make {self._path / SOCKET}: {error.strerror}")
        return made

    def _wait_for_change(self) -> None:
        """Look again after the next change; without a watch, or while something does not work, also after the longest pause."""
        try:
            if self._watch is None:
                self._watch = DirectoryWatch()
                self._watch.add(self._path)
            asyncio.get_running_loop().add_reader(self._watch.fileno(), self._on_change, self._watch)
            self.troubles.note(self._path, "")
        except OSError as error:
            self._unwatch()
            text = f"changes of {self._path} are seen after {MOST_SECONDS_BEFORE_REPAIR:.0f} s: {error.strerror}"
            self.troubles.note(self._path, text)
        if self.troubles.texts:
            self._look_after(MOST_SECONDS_BEFORE_REPAIR)

    def _unwatch(self) -> None:
        if self._watch:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _on_change(self, watch: DirectoryWatch) -> None:
        """Be deaf for the pause: who changes files without end costs no more than who changes one."""
        asyncio.get_running_loop().remove_reader(watch.fileno())
        self._look_after(self._pause)

    def _look_after(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._watch:
            self._watch.drain()
        before, made, unreadable = self.troubles.texts, list[str](), ""
        try:
            made = self._put_right()
        except OSError as error:  # of the source, which was there at the start: the host has no memory or files for it now
            unreadable = f"cannot read {self._launcher}: {error.strerror}"
        self.troubles.note(self._launcher, unreadable)
        if made and self._pause < MOST_SECONDS_BEFORE_REPAIR:
            log.warning("restored %s in %s", ", ".join(made), self._path)
        self._back_off(is_damaged=bool(made) or self.troubles.texts != before)
        self._wait_for_change()
        if self.troubles.texts != before:
            self._on_trouble()

    def _back_off(self, *, is_damaged: bool) -> None:
        """Double the pause with each damage; the first one after a calm time is put right soon again."""
        now = asyncio.get_running_loop().time()
        if is_damaged:
            self._calm_at = now + SECONDS_CALM
            self._pause = min(2 * self._pause, MOST_SECONDS_BEFORE_REPAIR)
        elif now >= self._calm_at:
            self._pause = SECONDS_BEFORE_REPAIR
        is_hopeless = self._pause >= MOST_SECONDS_BEFORE_REPAIR
        text = f"something damages {self._path} again and again: it is restored every {MOST_SECONDS_BEFORE_REPAIR:.0f} s"
        self.troubles.note(self._path / "*", text if is_hopeless else "")
