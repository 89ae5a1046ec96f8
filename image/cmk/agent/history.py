"""The history of a node's pools: the last changes that were applied, undone or refused, as its report shows them. It outlives reboots."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cmk.host import state

log = logging.getLogger(__name__)

MOST = 10
APPLIED = "applied"


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One change: hashes of the configuration before and after, tasks moved, and ``outcome``: ``applied``, or what prevented it."""

    when: str
    from_hash: str = msgspec.field(name="from")
    to_hash: str = msgspec.field(name="to")
    moves: int
    milliseconds: int
    outcome: str


class History:
    """The entries in a file, newest last."""

    def __init__(self, path: Path) -> None:
        self._file = state.StateFile(path, list[Entry], durable=True)
        self._entries: list[Entry] | None = None

    @property
    def entries(self) -> list[Entry]:
        """The last ten."""
        if self._entries is None:
            try:
                self._entries = self._file.read() or []
                if self._file.fault:
                    log.warning("%s", self._file.fault)
            except state.StateError as error:
                log.error("%s", error)  # no decision depends on the history
                self._entries = []
        return self._entries

    def add(self, before: str, after: str, moves: int, milliseconds: int, outcome: str) -> None:
        """Record a change. Of a change that is refused again and again only the last refusal stays."""
        others = self.entries
        last = others[-1] if others else None
        if last and APPLIED not in (outcome, last.outcome) and (last.from_hash, last.to_hash) == (before, after):
            if last.outcome == outcome:
                return
            others = others[:-1]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._entries = [*others, Entry(now, before, after, moves, milliseconds, outcome)][-MOST:]
        try:
            self._file.write(self._entries)
        except state.StateError as error:
            log.error("%s", error)  # the report shows it all the same

    def forget(self) -> None:
        """Delete the history of a node that is not selected any more."""
        self._entries = None
        self._file.delete()
