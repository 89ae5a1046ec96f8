"""A JSON document under change, and the JSON patch (RFC 6902) of the changes made so far. Pure."""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]
Path = tuple[str | int, ...]


class Draft:
    """Every change is made in ``document`` itself, and once in ``operations``, the patch.

    A map or list that the draft has put into the document and adds to later stays one operation, for the operation holds that very
    object. ``null`` counts as missing, as it does for the API server.
    """

    def __init__(self, document: Json) -> None:
        self.document = document
        self.operations: list[Json] = []
        self._own: set[int] = set()  # id() of each map and list that an operation holds

    def at(self, path: Path) -> Any:  # noqa: ANN401  # JSON
        """The value at a path; None when there is none."""
        value: Any = self.document
        for step in path:
            value = value[step] if isinstance(step, int) else value.get(step)
            if value is None:
                return None
        return value

    def put(self, path: Path, value: Any) -> None:  # noqa: ANN401  # JSON
        """Set a member of a map, and make the maps above it that are missing. No operation when the member has this value already."""
        if self.at(path) == value:
            return
        parent = self.map(path[:-1])
        fresh = copy.deepcopy(value)
        if id(parent) not in self._own:
            self.operations.append({"op": "add", "path": pointer(path), "value": fresh})
        parent[str(path[-1])] = fresh
        self._adopt(fresh)

    def map(self, path: Path) -> Json:
        """The map at a path, made when it is missing or the value there is not a map."""
        if not isinstance(self.at(path), dict):
            self.put(path, {})
        value: Json = self.at(path)
        return value

    def append(self, path: Path, value: Any) -> None:  # noqa: ANN401  # JSON
        """Add to the end of a list, made when it is missing or the value there is not a list."""
        items = self.at(path)
        if not isinstance(items, list):
            self.put(path, [value])
            return
        fresh = copy.deepcopy(value)
        if id(items) not in self._own:
            self.operations.append({"op": "add", "path": pointer((*path, "-")), "value": fresh})
        items.append(fresh)
        self._adopt(fresh)

    def replace(self, path: Path, value: Any) -> None:  # noqa: ANN401  # JSON
        """Replace the item of a list that is at a path."""
        items = self.at(path[:-1])
        fresh = copy.deepcopy(value)
        if id(items) not in self._own:
            self.operations.append({"op": "replace", "path": pointer(path), "value": fresh})
        items[path[-1]] = fresh
        self._adopt(fresh)

    def drop(self, path: Path) -> None:
        """Remove a member of a map."""
        parent = self.at(path[:-1])
        del parent[path[-1]]
        if id(parent) not in self._own:
            self.operations.append({"op": "remove", "path": pointer(path)})

    def _adopt(self, value: Any) -> None:  # noqa: ANN401  # JSON
        if isinstance(value, dict):
            self._own.add(id(value))
            for item in value.values():
                self._adopt(item)
        elif isinstance(value, list):
            self._own.add(id(value))
            for item in value:
                self._adopt(item)


def pointer(path: Path) -> str:
    """The JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
