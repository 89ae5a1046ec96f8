"""Exceptions that nobody expected: what is counted and what is logged of each kind."""

import pytest

from cmk.agent import faults
from cmk.agent.faults import Faults


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # the same, with its traceback
        return caught


def raised_elsewhere(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_kind_is_a_type_and_a_place() -> None:
    noted = Faults()
    for error in (raised(ValueError("a")), raised(ValueError("b")), raised(KeyError("a")), raised_elsewhere(ValueError("a"))):
        noted.note(error, "cannot")
    assert sorted(noted.counts.values()) == [1, 1, 2]
    assert all(kind.startswith(("ValueError at test_faults.py:", "KeyError at test_faults.py:")) for kind in noted.counts)


def test_a_traceback_is_logged_once_and_later_ones_ever_more_seldom(caplog: pytest.LogCaptureFixture) -> None:
    noted = Faults()
    for _ in range(100):
        noted.note(raised(ValueError("a")), "cannot serve")
    assert [bool(record.exc_info) for record in caplog.records] == [True, *[False] * 6]
    assert "64 times by now" in caplog.records[-1].getMessage()


def test_the_number_of_kinds_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_MOST_KINDS", 2)
    noted = Faults()
    for number in range(5):
        noted.note(raised(type(f"Error{number}", (Exception,), {})()), "cannot")
    assert list(noted.counts.values()) == [1, 1, 3]
    assert noted.counts[faults.OTHER] == 3
