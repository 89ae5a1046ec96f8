"""What an allocation comes to: the words of refusals, and the names that kcm gave to pools. Imports nothing."""

from __future__ import annotations

# What kcm called two of the pools.
OLD_NAMES = {"dataplane": "exclusive", "controlplane": "shared"}


class Refused(Exception):  # an answer, not a fault
    """The request is not served. ``final``: it never will be; otherwise it may be once somebody releases."""

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final
