"""The on-move wish of a workload, for changes of its CPUs while it runs: follow, stay pinned, or follow and be notified."""

from __future__ import annotations

import signal
from enum import StrEnum

import msgspec

from cmk.model.errors import CmkError

ANNOTATION = "cmk.intel.com/on-move"


class OnMoveError(CmkError):
    """Text that is not a valid on-move; the text of the error names the valid ones."""


class How(StrEnum):
    """``follow``: the task's threads are pinned anew. ``pinned``: a change that moves it is refused. ``notify``: follow, with a notice."""

    FOLLOW = "follow"
    PINNED = "pinned"
    NOTIFY = "notify"


class OnMove(msgspec.Struct, frozen=True):
    """A task's wish, and the number of the signal that it gets after a change (0: none, it watches its file)."""

    how: How = How.FOLLOW
    signal: int = 0


def parse(text: str) -> OnMove:
    """Read ``follow``, ``pinned``, ``notify`` or ``notify:SIGNAL``; raises OnMoveError."""
    word, colon, name = text.partition(":")
    try:
        how = How(word)
    except ValueError:
        raise OnMoveError(f"on-move {text[:40]!r} is none of follow, pinned, notify, notify:SIGNAL") from None
    if not colon:
        return OnMove(how)
    word = name.upper()
    number = signal.Signals.__members__.get(word if word.startswith("SIG") else f"SIG{word}")
    if how is not How.NOTIFY or number is None or number in (signal.SIGKILL, signal.SIGSTOP):
        raise OnMoveError(f"on-move {text[:40]!r}: only notify takes a signal, and one that can be caught, as in notify:SIGHUP")
    return OnMove(how, int(number))
