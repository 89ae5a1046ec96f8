"""NodeReport objects: created, compared and replaced."""

from __future__ import annotations

from cmk.kube.client import CONFLICT, NOT_FOUND, Api, ApiError, Json

GROUP = "cmk.intel.com/v1"
PATH = f"/apis/{GROUP}/cmk-nodereports"


def put(api: Api, name: str, body: Json, current: Json | None) -> Json:
    """Make the report equal ``body`` (``spec`` and ``status``); returns the object as stored. Raises ApiError."""
    wanted: Json = {"apiVersion": GROUP, "kind": "NodeReport", **body}
    for _ in range(3):  # somebody may create, delete or change it in between; the watch brings us back if three are not enough
        try:
            if current is None:
                return api.create(PATH, {**wanted, "metadata": {"name": name}})
            version = current["metadata"]["resourceVersion"]
            return api.replace(f"{PATH}/{name}", {**wanted, "metadata": {"name": name, "resourceVersion": version}})
        except ApiError as error:
            if error.status not in (NOT_FOUND, CONFLICT):
                raise
            current = _get(api, name)
    raise ApiError(f"NodeReport {name} keeps changing under us", CONFLICT)


def delete(api: Api, name: str) -> None:
    """Remove the report of a node."""
    api.delete(f"{PATH}/{name}")


def is_current(body: Json, current: Json | None) -> bool:
    """Whether the stored object says what ``body`` says."""
    return current is not None and all(current.get(key) == value for key, value in body.items())


def _get(api: Api, name: str) -> Json | None:
    found = api.get(PATH, fieldSelector=f"metadata.name={name}")
    items = found.get("items") or []
    return items[0] if items else None
