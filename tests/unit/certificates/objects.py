"""Objects by path, kept as an API server keeps them: versions, conflicts, JSON patches."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch
from kubernetes.client.configuration import Configuration

from cmk.kube.client import Api, ApiError, Json


class Objects(Api):
    """``writes`` tells in order what was written. ``before_write`` is called once, before the next write: somebody who is quicker."""

    def __init__(self, **objects: Json) -> None:
        super().__init__(Configuration())
        self.store: dict[str, Json] = {}
        self.writes: list[str] = []
        self.before_write: Any = None
        self._version = 0

    def put(self, path: str, body: Json) -> Json:
        """Store an object, whatever was there."""
        self._version += 1
        known = self.store.get(path, {}).get("metadata", {})
        uid = known.get("uid") or body["metadata"].get("uid") or f"uid-{self._version}"
        meta = {**body["metadata"], "uid": uid, "resourceVersion": str(self._version)}
        self.store[path] = {**copy.deepcopy(body), "metadata": meta}
        return copy.deepcopy(self.store[path])

    def get(self, path: str, **params: str) -> Json:
        if path not in self.store:
            raise ApiError(f"no {path}", 404)
        return copy.deepcopy(self.store[path])

    def replace(self, path: str, body: Json) -> Json:
        self._written("replace", path)
        if self.get(path)["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError("changed meanwhile", 409)
        return self.put(path, body)

    def apply(self, path: str, body: Json, manager: str) -> Json:
        self._written(f"apply as {manager}", path)
        return self.put(path, {**self.store.get(path, {}), **body})

    def json_patch(self, path: str, operations: list[Json]) -> Json:
        self._written("patch", path)
        return self.put(path, jsonpatch.apply_patch(self.get(path), operations))

    def delete(self, path: str) -> None:
        self._written("delete", path)
        self.store.pop(path, None)

    def _written(self, how: str, path: str) -> None:
        if self.before_write:
            act, self.before_write = self.before_write, None
            act()
        self.writes.append(f"{how} {path.rsplit('/', 2)[1]}")
