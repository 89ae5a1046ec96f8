"""Files may be written at any moment, also amid a load: one refresh after the last write, the newest are in use or a problem is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from cmk.model.errors import CmkError
from cmk.webhook.live import Live

NAMES = ("a", "b")
BAD = "bad"
Write = tuple[str, str]
# The main file names the one to read after it; what either says may be unusable.
WRITE = st.tuples(st.just("main"), st.sampled_from([*NAMES, BAD])) | st.tuples(
    st.sampled_from(NAMES), st.sampled_from(["1", "2", BAD])
)


class Files:
    """Files and a writer, who gets a turn before and after each time that somebody looks at one of them."""

    def __init__(self, directory: Path, turns: list[list[Write]]) -> None:
        self._directory, self._turns, self._time = directory, list(turns), 0
        self._write([("main", "a"), ("a", "1"), ("b", "1")])

    def load(self) -> Write:
        """Name and text of the file that the main file names; raises CmkError."""
        self._turn()
        name = self._text("main")
        self._turn()
        text = self._text(name)
        self._turn()
        return name, text

    def used(self, value: Write) -> Iterator[Path]:
        """The files that a value came from."""
        for name in ("main", value[0]):
            self._turn()
            yield self._directory / name

    def stop(self) -> None:
        """The writer stops."""
        self._turns.clear()

    def newest(self) -> tuple[Write | None, str]:
        """What a load gives now: a value or a problem."""
        try:
            return self.load(), ""
        except CmkError as error:
            return None, f"pair: {error}"

    def _turn(self) -> None:
        self._write(self._turns.pop(0) if self._turns else [])

    def _write(self, writes: list[Write]) -> None:
        for name, text in writes:
            path = self._directory / name
            path.write_text(text)
            self._time += 1  # the kernel's own times are too coarse to tell these writes apart
            os.utime(path, ns=(self._time, self._time))

    def _text(self, name: str) -> str:
        text = (self._directory / name).read_text()
        if text == BAD:
            raise CmkError(f"{name} is bad")
        return text


@given(st.lists(st.lists(WRITE, max_size=3), max_size=15), st.integers(0, 3))
def test_no_write_is_lost(turns: list[list[Write]], refreshes: int) -> None:
    with TemporaryDirectory() as directory:
        files = Files(Path(directory), turns)
        try:
            live = Live("pair", files.load, files.used)
        except CmkError:
            return  # without a first value there is nothing to keep up to date
        for _ in range(refreshes):
            live.refresh()
        files.stop()
        live.refresh()
        newest, problem = files.newest()
        assert live.problem == problem
        assert problem or live.value == newest
