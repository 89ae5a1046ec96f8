import os
from pathlib import Path

import pytest

from cmk.host.inotify import DirectoryWatch


def test_tells_which_entries_changed(tmp_path: Path) -> None:
    watch = DirectoryWatch()
    watch.add(tmp_path)
    assert not watch.read()
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b").rmdir()
    (tmp_path / "a").rename(tmp_path / "c")
    assert {path.name: directory for path, directory in watch.read().items()} == {"a": False, "b": True, "c": False}
    assert not watch.read()
    watch.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    watch = DirectoryWatch()
    with pytest.raises(FileNotFoundError, match="none"):
        watch.add(tmp_path / "none")
    watch.close()


def test_drain_forgets_what_happened_before(tmp_path: Path) -> None:
    watch = DirectoryWatch()
    watch.add(tmp_path)
    (tmp_path / "a").touch()
    watch.drain()
    assert not watch.read()
    (tmp_path / "b").touch()
    assert [path.name for path in watch.read()] == ["b"]
    watch.close()


def test_of_a_queue_that_fills_as_fast_as_it_is_read_the_rest_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = DirectoryWatch()
    watch.add(tmp_path)
    real = os.read

    def refilling(fd: int, size: int) -> bytes:
        (tmp_path / "a").touch()
        return real(fd, size)

    monkeypatch.setattr(os, "read", refilling)
    assert [path.name for path in watch.read()] == ["a"]
    watch.drain()
    watch.close()
