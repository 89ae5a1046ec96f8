"""Exceptions that nobody expected: each is kept to the one connection in which it was raised, or ends the agent if that is in doubt."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath

log = logging.getLogger(__name__)

OTHER = "other"
_MOST_KINDS = 200


class Faults:
    """``counts`` tells how often each kind of exception was raised; a kind is its type and the place that raised it.

    The first of a kind is logged with its traceback; later ones in one line, each time that their number has doubled.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def note(self, error: BaseException, what: str) -> None:
        """Count an exception and log it; ``what`` could not be done because of it."""
        kind = _kind(error)
        if kind not in self.counts and len(self.counts) >= _MOST_KINDS:
            kind = OTHER
        self.counts[kind] += 1
        count = self.counts[kind]
        if count == 1:
            log.error("%s: %s (%s); only this connection is lost", what, error, kind, exc_info=error)
        elif count & (count - 1) == 0:
            log.error("%s: %s (%s), %d times by now", what, error, kind, count)


@contextmanager
def ending_agent(what: str) -> Iterator[None]:
    """End the agent if the block raises, even where a connection's exceptions are kept to it; ``what`` could not be done.

    After that nobody knows what the ledger says of whom: the next agent reads the state afresh.
    """
    try:
        yield
    except Exception as error:
        asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})
        raise


def _kind(error: BaseException) -> str:
    """Type and innermost place, as in ``ValueError at server.py:120``."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"
    return f"{type(error).__name__} at {place}"
