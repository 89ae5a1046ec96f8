"""A JSON document that is being changed, and the JSON patch (RFC 6902) that says how. Pure."""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]
Path = tuple[str | int, ...]


class Draft:
    """Changes are made in ``document`` itself and written down in ``operations``, each of them once.

    What we put there and add to later is one operation, for the operation holds the very object that we add to. ``null`` is treated as
    what is missing, as the API server does.
    """

    def __init__(self, document: Json) -> None:
        self.document = document
        self.operations: list[Json] = []
        self._own: set[int] = set()

    def at(self, path: Path) -> Any:  # noqa: ANN401  # JSON
        """What is at a path; None when nothing is."""
        place: Any = self.document
        for step in path:
            place = place[step] if isinstance(step, int) else place.get(step)
            if place is None:
                return None
        return place

    def put(self, path: Path, value: Any) -> None:  # noqa: ANN401  # JSON
        """Set a member of a map, making maps above it where they miss; nothing is written down when it is there already."""
        if self.at(path) == value:
            return
        parent = self.map(path[:-1])
        fresh = copy.deepcopy(value)
        if id(parent) not in self._own:
            self.operations.append({"op": "add", "path": pointer(path), "value": fresh})
        parent[str(path[-1])] = fresh
        self._adopt(fresh)

    def map(self, path: Path) -> Json:
        """The map at a path, made when it misses or is something else."""
        if not isinstance(self.at(path), dict):
            self.put(path, {})
        found: Json = self.at(path)
        return found

    def append(self, path: Path, value: Any) -> None:  # noqa: ANN401  # JSON
        """Add to the end of a list, made when it misses or is something else."""
        found = self.at(path)
        if not isinstance(found, list):
            self.put(path, [value])
            return
        fresh = copy.deepcopy(value)
        if id(found) not in self._own:
            self.operations.append({"op": "add", "path": pointer((*path, "-")), "value": fresh})
        found.append(fresh)
        self._adopt(fresh)

    def replace(self, path: Path, value: Any) -> None:  # noqa: ANN401  # JSON
        """Put another item in the place of one of a list."""
        items = self.at(path[:-1])
        fresh = copy.deepcopy(value)
        if id(items) not in self._own:
            self.operations.append({"op": "replace", "path": pointer(path), "value": fresh})
        items[path[-1]] = fresh
        self._adopt(fresh)

    def drop(self, path: Path) -> None:
        """Take a member out of a map."""
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
    """JSON pointer (RFC 6901) of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
