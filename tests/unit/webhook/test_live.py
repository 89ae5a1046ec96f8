from __future__ import annotations

from pathlib import Path

import pytest

from cmk.model.errors import CmkError
from cmk.webhook.live import Live


def live(path: Path) -> Live[int]:
    def load() -> int:
        text = path.read_text()
        if not text.isdigit():
            raise CmkError(f"{text!r} is not a number")
        return int(text)

    return Live("number", load, lambda _: [path])


def test_a_change_is_seen_once(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_text("1")
    number = live(path)
    assert not number.refresh()
    path.write_text("22")
    assert number.refresh()
    assert number.value == 22
    assert not number.refresh()


def test_a_mounted_secret_changes_by_a_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "n").write_text("1" if name == "one" else "2")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "n").symlink_to("..data/n")
    number = live(tmp_path / "n")
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert number.refresh()
    assert number.value == 2


def test_files_that_cannot_be_used_leave_the_last_good_value(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_text("1")
    number = live(path)
    path.write_text("xx")
    assert not number.refresh()
    assert (number.value, number.failures) == (1, 1)
    assert number.problem == "number: 'xx' is not a number"
    assert not number.refresh()
    assert number.failures == 1


def test_a_file_that_goes_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_text("1")
    number = live(path)
    path.unlink()
    number.refresh()
    assert "No such file" in number.problem
    path.write_text("333")
    assert number.refresh()
    assert (number.value, number.problem) == (333, "")


def test_without_a_first_good_value_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        live(tmp_path / "n")


def test_what_is_written_during_a_load_is_loaded_by_the_next_refresh(tmp_path: Path) -> None:
    path = tmp_path / "n"
    path.write_text("1")
    later = ["", "two, half", "3"]  # what the writer leaves right after each load has read the file

    def load() -> str:
        text = path.read_text()
        if later:
            path.write_text(later.pop(0) or text)
        return text

    text = Live("text", load, lambda _: [path])
    path.write_text("two, half of it")
    text.refresh()
    while text.refresh():
        pass
    assert (text.value, path.read_text()) == ("3", "3")


def test_a_file_that_only_the_new_files_name_is_watched_before_it_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "name").write_text("old")
    (tmp_path / "old").write_text("1")

    def load() -> tuple[str, Path]:
        path = tmp_path / (tmp_path / "name").read_text()
        return path.read_text(), path

    text = Live("text", load, lambda value: [tmp_path / "name", value[1]])
    (tmp_path / "name").write_text("newer")
    text.refresh()
    assert "No such file" in text.problem
    (tmp_path / "newer").write_text("2")
    assert text.refresh()
    assert (text.value[0], text.problem) == ("2", "")
