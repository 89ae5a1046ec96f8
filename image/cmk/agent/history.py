"""The last changes of a node's pools, for its report: made, undone or refused. Outlives agents and reboots."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from cmk.host import state

MOST = 10
APPLIED = "applied"


class Entry(msgspec.Struct, frozen=True, rename="camel"):
    """One change: hashes of the configuration before and after, tasks moved, and ``outcome``: ``applied``, or what came in its way."""

    when: str
    from_hash: str = msgspec.field(name="from")
    to_hash: str = msgspec.field(name="to")
    moves: int
    milliseconds: int
    outcome: str


class History:
    """Newest last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[Entry] | None = None

    @property
    def entries(self) -> list[Entry]:
        """At most ten. Raises StateError."""
        if self._entries is None:
            self._entries = state.read(self._path, list[Entry]) or []
        return self._entries

    def add(self, before: str, after: str, moves: int, milliseconds: int, outcome: str) -> None:
        """Note a change; one that is refused again and again for the same reason is one. Raises StateError."""
        last = self.entries[-1] if self.entries else None
        if outcome != APPLIED and last and (last.from_hash, last.to_hash, last.outcome) == (before, after, outcome):
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._entries = [*self.entries, Entry(now, before, after, moves, milliseconds, outcome)][-MOST:]
        state.write(self._path, self._entries, durable=True)

    def forget(self) -> None:
        """The node is ours no longer."""
        self._path.unlink(missing_ok=True)
        self._entries = None
