from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmk.host.state import StateError
from cmk.isolation.originals import Originals, Saved
from cmk.model.isolation_config import Isolation, Thread

# Written by cmk 0.1.0: an upgrade meets such a file beside cpusets, interrupts and threads that are changed already.
FILE = """\
{"boot":"b1c3","settings":{"pods":true,"ownPod":true,"host":"slices","irqs":"on","partition":"auto","idle":"reserved"},\
"universe":[0,1,2,3],"groups":{"":[0,1,2,3],"burstable":null},"partitioned":true,\
"moved":[{"tid":7,"start":123,"before":[0,1],"since":[0]}],"slices":{"system.slice":null,"user.slice":[0,1]},"irqs":{"9":[2,3]},\
"default_irq":[0,1,2,3],"threads":[{"tid":8,"start":124,"before":[0,3],"since":[0]}],"closed":[3]}"""
ALL, FIRST, PAIR = frozenset({0, 1, 2, 3}), frozenset({0}), frozenset({0, 1})
CONTENT = Saved(
    boot="b1c3",
    settings=Isolation(host="slices", irqs="on", partition="auto"),
    universe=ALL,
    groups={"": ALL, "burstable": None},
    partitioned=True,
    moved=[Thread(7, 123, PAIR, FIRST)],
    slices={"system.slice": None, "user.slice": PAIR},
    irqs={9: frozenset({2, 3})},
    default_irq=ALL,
    threads=[Thread(8, 124, frozenset({0, 3}), FIRST)],
    closed=frozenset({3}),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "isolation.json"


def fields_of(file: Path) -> dict[str, Any]:
    """What is in the file beside its check, which an earlier version ignores."""
    fields: dict[str, Any] = json.loads(file.read_text())
    del fields["check"]
    return fields


def test_a_file_of_an_earlier_version_is_read_as_it_is(file: Path) -> None:
    file.write_text(FILE)
    originals = Originals(file, "b1c3")
    assert originals.load()
    assert originals.saved == CONTENT


def test_an_earlier_version_finds_its_fields_again(file: Path) -> None:
    file.write_text(FILE)
    originals = Originals(file, "b1c3")
    originals.load()
    originals.save_closed(PAIR)
    assert fields_of(file) == json.loads(FILE) | {"closed": [0, 1]}


@pytest.mark.parametrize("text", [FILE, None], ids=["of another boot", "no file"])
def test_nothing_is_loaded(file: Path, text: str | None) -> None:
    if text is not None:
        file.write_text(text)
    originals = Originals(file, "this boot")
    assert not originals.load()
    assert originals.saved == Saved("this boot", Isolation())


def test_a_damaged_file_is_named(file: Path) -> None:
    file.write_text(FILE[:-9])
    with pytest.raises(StateError, match=str(file)):
        Originals(file, "b1c3").load()


def test_each_change_is_in_the_file_when_it_returns_and_leaves_the_rest(file: Path) -> None:
    originals = Originals(file, "b1c3")
    originals.save_settings(CONTENT.settings)
    originals.save_groups(CONTENT.universe, CONTENT.groups)
    originals.save_partitioned(partitioned=True)
    originals.save_moved(CONTENT.moved)
    originals.save_slices(CONTENT.slices)
    originals.save_irqs(CONTENT.irqs, CONTENT.default_irq)
    originals.save_threads(CONTENT.threads)
    originals.save_closed(CONTENT.closed)
    assert originals.saved == CONTENT
    assert fields_of(file) == json.loads(FILE)


def test_threads_that_have_their_masks_back_are_forgotten_even_if_that_cannot_be_written(tmp_path: Path) -> None:
    originals = Originals(tmp_path / "missing/isolation.json", "b1c3")
    originals.saved = CONTENT
    with pytest.raises(StateError):
        originals.forget_moved([])
    assert originals.saved == msgspec.structs.replace(CONTENT, moved=[])


def test_a_change_that_cannot_be_written_has_not_been_made(tmp_path: Path) -> None:
    originals = Originals(tmp_path / "missing/isolation.json", "b1c3")
    with pytest.raises(StateError):
        originals.save_groups(ALL, {"": None})
    assert originals.saved == Saved("b1c3", Isolation())


def test_deleting_what_was_never_saved_is_no_error(file: Path) -> None:
    originals = Originals(file, "b1c3")
    originals.save_closed(ALL)
    originals.delete()
    assert not file.exists()
    originals.delete()
