from __future__ import annotations

import signal

import pytest

from cmk.isolate import on_move, say
from cmk.model.onmove import How, OnMove, OnMoveError, parse

GOOD = [
    ("follow", OnMove()),
    ("pinned", OnMove(How.PINNED)),
    ("notify", OnMove(How.NOTIFY)),
    ("notify:SIGHUP", OnMove(How.NOTIFY, signal.SIGHUP)),
    ("notify:usr1", OnMove(How.NOTIFY, signal.SIGUSR1)),
    ("notify:SIGRTMIN", OnMove(How.NOTIFY, signal.SIGRTMIN)),
]
BAD = [
    ("", "on-move '' is none of follow, pinned, notify, notify:SIGNAL"),
    ("stay", "on-move 'stay' is none of"),
    ("notify:", "only notify takes a signal"),
    ("notify:KILL", "one that can be caught"),
    ("notify:SIGSTOP", "one that can be caught"),
    ("notify:NOSUCH", "one that can be caught"),
    ("notify:9", "one that can be caught"),
    ("pinned:HUP", "only notify takes a signal"),
]


@pytest.mark.parametrize(("text", "expected"), GOOD)
def test_read(text: str, expected: OnMove) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(("text", "message"), BAD)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(OnMoveError, match=message):
        parse(text)


@pytest.mark.parametrize("text", [text for text, _ in GOOD])
def test_direct_mode_reads_it_the_same(text: str) -> None:
    found = on_move.parse(text)
    assert OnMove(How(found["how"]), found["signal"]) == parse(text)


@pytest.mark.parametrize(("text", "message"), BAD[1:])
def test_direct_mode_refuses_it_in_the_same_words(text: str, message: str) -> None:
    with pytest.raises(OnMoveError, match=message) as refused:
        parse(text)
    with pytest.raises(say.Failure) as failure:
        on_move.parse(text)
    assert str(failure.value) == str(refused.value)
