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
