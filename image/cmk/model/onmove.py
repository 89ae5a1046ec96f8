"""What a workload wants when its CPUs change under it: to follow, to be left where it is, or to follow and be told."""

from __future__ import annotations

import signal
from enum import StrEnum

import msgspec

from cmk.model.errors import CmkError

ANNOTATION = "cmk.intel.com/on-move"


class OnMoveError(CmkError):
    """A wish that nobody understands; the text names it and what there is."""


class How(StrEnum):
    """``follow``: its threads are pinned anew. ``pinned``: a change that would move it is refused. ``notify``: it is told as well."""

    FOLLOW = "follow"
    PINNED = "pinned"
    NOTIFY = "notify"


class OnMove(msgspec.Struct, frozen=True):
    """How, and the number of the signal that tells it (0: it looks into its file itself)."""

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
