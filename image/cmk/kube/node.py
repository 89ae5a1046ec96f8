"""Our marks on a Node object (label, taint, extended resources): what is there, and the patches that make it right."""

from __future__ import annotations

from collections.abc import Mapping

from cmk.kube.client import STRATEGIC_PATCH, Api, Json
from cmk.model.pods import RESOURCE_PREFIX

LABEL = "cmk.intel.com/cmk-node"
TAINT = {"key": "cmk", "value": "true", "effect": "NoSchedule"}


def labels(node: Json) -> dict[str, str]:
    """Labels of a node."""
    return dict(node["metadata"].get("labels") or {})


def advertised(node: Json) -> dict[str, int]:
    """Our extended resources in the node's capacity."""
    capacity = (node.get("status") or {}).get("capacity") or {}
    return {name: int(value) for name, value in capacity.items() if name.startswith(RESOURCE_PREFIX)}


def status_patch(node: Json, wanted: Mapping[str, int]) -> Json | None:
    """Patch of the status that advertises exactly ``wanted``, or None when it is right already."""
    status = node.get("status") or {}
    changes: Json = {}
    for part in ("capacity", "allocatable"):
        have = {name: str(value) for name, value in (status.get(part) or {}).items() if name.startswith(RESOURCE_PREFIX)}
        want = {name: str(count) for name, count in wanted.items()}
        if have != want:
            changes[part] = {**dict.fromkeys(have.keys() - want.keys()), **want}
    return {"status": changes} if changes else None


def marks_patch(node: Json, *, label: bool, taint: bool) -> Json | None:
    """Patch of label and taint, or None when both are right already.

    Taints are one value to the API server, so the whole list goes with the version it was read at: the server refuses (409) the patch when
    somebody else changed the node meanwhile.
    """
    meta: Json = {}
    patch: Json = {}
    if labels(node).get(LABEL) != ("true" if label else None):
        meta["labels"] = {LABEL: "true" if label else None}
    have = node["spec"].get("taints") or []
    others = [item for item in have if item["key"] != TAINT["key"]]
    ours = [item for item in have if item["key"] == TAINT["key"]]
    right = len(ours) == 1 and ours[0].get("value") == TAINT["value"] and ours[0]["effect"] == TAINT["effect"]
    if right != taint or (ours and not taint):
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
