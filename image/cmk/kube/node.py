"""Label, taint and extended resources of cmk on a Node object: the present ones, and the patches to the wanted ones."""

from __future__ import annotations

from collections.abc import Mapping

from cmk.kube.client import STRATEGIC_PATCH, Api, Json
from cmk.model.pods import RESOURCE_PREFIX, count_of

LABEL = "cmk.intel.com/cmk-node"
TAINT = {"key": "cmk", "value": "true", "effect": "NoSchedule"}


def labels(node: Json) -> dict[str, str]:
    """Labels of a node."""
    return dict(node["metadata"].get("labels") or {})


def advertised(node: Json) -> dict[str, int]:
    """Extended resources of cmk in the node's capacity: name → count, 0 where somebody has written what is no count."""
    return {name: count or 0 for name, count in _counts(node, "capacity").items()}


def status_patch(node: Json, wanted: Mapping[str, int]) -> Json | None:
    """Patch of the status so that it advertises exactly ``wanted``; None when it does already."""
    changes: Json = {}
    for part in ("capacity", "allocatable"):
        current = _counts(node, part)
        if current != wanted:
            target = {name: str(count) for name, count in wanted.items()}
            changes[part] = {**dict.fromkeys(current.keys() - target.keys()), **target}
    return {"status": changes} if changes else None


def _counts(node: Json, part: str) -> dict[str, int | None]:
    """Extended resources of cmk in ``capacity`` or ``allocatable``; the API server writes 1000 as ``1k``. None: no whole number."""
    values = (node.get("status") or {}).get(part) or {}
    return {name: count_of(value) for name, value in values.items() if name.startswith(RESOURCE_PREFIX)}


def marks_patch(node: Json, *, label: bool, taint: bool) -> Json | None:
    """Patch of label and taint; None when both are as wanted already.

    To the API server all taints are one value. So the patch has the whole list and the resourceVersion that it was read at: the server
    refuses it (409) when the node has changed since.
    """
    meta: Json = {}
    patch: Json = {}
    if labels(node).get(LABEL) != ("true" if label else None):
        meta["labels"] = {LABEL: "true" if label else None}
    taints = node["spec"].get("taints") or []
    others = [item for item in taints if item["key"] != TAINT["key"]]
    ours = [item for item in taints if item["key"] == TAINT["key"]]
    tainted = len(ours) == 1 and ours[0].get("value") == TAINT["value"] and ours[0]["effect"] == TAINT["effect"]
    if tainted != taint or (ours and not taint):
        meta["resourceVersion"] = node["metadata"]["resourceVersion"]
        patch["spec"] = {"taints": [*others, TAINT] if taint else others}
    if meta:
        patch["metadata"] = meta
    return patch or None


def path_of(name: str) -> str:
    """API path of a node."""
    return f"/api/v1/nodes/{name}"


def apply_status(api: Api, name: str, patch: Json) -> Json:
    """Send a patch of ``status_patch``; returns the new node."""
    return api.patch(f"{path_of(name)}/status", patch, STRATEGIC_PATCH)


def apply_marks(api: Api, name: str, patch: Json) -> Json:
    """Send a patch of ``marks_patch``; returns the new node."""
    return api.patch(path_of(name), patch, STRATEGIC_PATCH)
