"""What an allocation comes to: the words of refusals, and the names that kcm gave to pools. Imports only what imports nothing."""

from __future__ import annotations

from cmk.model.errors import CmkError

# What kcm called two of the pools.
OLD_NAMES = {"dataplane": "exclusive", "controlplane": "shared"}


class Refused(CmkError):  # an answer, not a fault
    """The request is not served. ``final``: it never will be; otherwise it may be once somebody releases."""

    def __init__(self, text: str, *, final: bool) -> None:
        super().__init__(text)
        self.final = final
