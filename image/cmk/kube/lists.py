"""Lists of any number of objects of any size, read in parts if need be. Of each object there is only what its reader keeps."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from cmk.kube import shapes
from cmk.kube.client import GONE, Api, ApiError, Json, TooLongError
from cmk.kube.shapes import ShapeError

Keep = Callable[[Any], Any]

# Objects per part at first; half as many as often as a part is too long.
FIRST_LIMIT = 32
# More than all pods of a large cluster, one by one. What has more parts has no end.
MOST_PARTS = 20_000
# A part that is asked for after some minutes may be gone.
ATTEMPTS = 3
# For this time nobody asks again for the whole of what was too long.
SECONDS_IN_PARTS = 600.0
_LONGEST_TOKEN = 10_000


def whole(item: Any) -> Any:  # noqa: ANN401  # an item may have any shape
    """Keep all of an object."""
    return item


class Lister:
    """Lists the objects of a ``kind`` at a ``path`` that a field selector selects, as the API's quorum has them. Thread-safe.

    It asks for the whole list, which recent API servers answer from memory. Parts cost more: servers look for them among all objects in
    their store. They come only after an answer that was too long.
    """

    def __init__(
        self, api: Api, kind: str, path: str, selector: str, keep: Keep = whole, clock: Callable[[], float] = monotonic
    ) -> None:
        self._api, self._kind, self._path, self._selector, self._keep, self._clock = api, kind, path, selector, keep, clock
        self._what = f"the list of {path}"
        self._in_parts_until = clock()

    def read(self) -> tuple[Json, list[Any]]:
        """The first answer, whose metadata are those of the list, and all items as far as they are kept; raises ApiError."""
        if self._clock() >= self._in_parts_until:
            try:
                return self._read("")
            except TooLongError:
                self._in_parts_until = self._clock() + SECONDS_IN_PARTS
        for _ in range(ATTEMPTS):
            try:
                return self._read(str(FIRST_LIMIT))
            except ApiError as error:
                if error.status != GONE:
                    raise
        raise ApiError(f"{self._what} takes longer than the API server keeps it")

    def _read(self, limit: str) -> tuple[Json, list[Any]]:
        """Read all parts. They are of one moment, that of the first."""
        first: Json = {}
        items: list[Any] = []
        token = ""
        for _ in range(MOST_PARTS):
            page, limit = self._part(limit, token)
            first = first or page
            items += shapes.items_of(page, self._kind, self._what)
            before, token = token, self._next(page)
            if not token:
                return first, items
            if token == before:
                break
        raise ShapeError(f"{self._what} has no end")

    def _part(self, limit: str, token: str) -> tuple[Json, str]:
        while True:
            position = {name: value for name, value in (("limit", limit), ("continue", token)) if value}
            try:
                return self._api.page(self._path, self._keep, fieldSelector=self._selector, **position), limit
            except TooLongError:
                if limit in ("", "1"):
                    raise
                limit = str(int(limit) // 2)

    def _next(self, page: Json) -> str:
        """The token of the next part, "" after the last. A part that does not say whether it is the last might hide objects."""
        metadata = page.get("metadata")
        token = metadata.get("continue") if isinstance(metadata, dict) else False
        if token is not None and (not isinstance(token, str) or len(token) > _LONGEST_TOKEN):
            raise ShapeError(f"{self._what} does not say how it goes on")
        return token or ""
