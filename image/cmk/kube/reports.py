"""NodeReport objects: how they are written, compared and deleted."""

from __future__ import annotations

from cmk.kube import shapes
from cmk.kube.client import CONFLICT, NOT_FOUND, Api, ApiError, Json

GROUP = "cmk.intel.com/v1"
PATH = f"/apis/{GROUP}/cmk-nodereports"


def put(api: Api, name: str, body: Json, current: Json | None) -> Json:
    """Make the report equal ``body`` (``spec`` and ``status``); returns the object as stored. Raises ApiError."""
    wanted: Json = {"apiVersion": GROUP, "kind": "NodeReport", **body}
    for _ in range(
        3
    ):  # the report may be created, deleted or changed meanwhile; after three attempts the watch leads to the next
        try:
            if current is None:
                return _checked(api.create(PATH, {**wanted, "metadata": {"name": name}}))
            version = current["metadata"].get("resourceVersion", "")
            return _checked(api.replace(f"{PATH}/{name}", {**wanted, "metadata": {"name": name, "resourceVersion": version}}))
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            current = _get(api, name)
    raise ApiError(f"NodeReport {name} changes faster than it can be written: find out what else writes it", CONFLICT)


def delete(api: Api, name: str) -> None:
    """Remove the report of a node."""
    api.delete(f"{PATH}/{name}")


def is_current(body: Json, current: Json | None) -> bool:
    """Whether the stored object has everything that ``body`` has."""
    return current is not None and all(current.get(key) == value for key, value in body.items())


def _get(api: Api, name: str) -> Json | None:
    items = shapes.items_of(api.get(PATH, fieldSelector=f"metadata.name={name}"), "NodeReport", f"the list of {PATH}")
    return _checked(items[0]) if items else None


def _checked(report: object) -> Json:
    return shapes.check(report, shapes.NamedShape, "a NodeReport")
