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


def test_what_is_no_good_leaves_the_last_good_one_and_is_told(tmp_path: Path) -> None:
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


def test_without_a_good_one_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        live(tmp_path / "n")
