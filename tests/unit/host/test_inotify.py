from pathlib import Path

import pytest

from cmk.host.inotify import DirectoryWatch


def test_tells_which_entries_changed(tmp_path: Path) -> None:
    watch = DirectoryWatch()
    watch.add(tmp_path)
    assert watch.read() == set()
    (tmp_path / "a").write_text("x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b").rmdir()
    (tmp_path / "a").rename(tmp_path / "c")
    assert {path.name for path in watch.read()} == {"a", "b", "c"}
    assert watch.read() == set()
    watch.close()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    watch = DirectoryWatch()
    with pytest.raises(FileNotFoundError, match="none"):
        watch.add(tmp_path / "none")
    watch.close()
