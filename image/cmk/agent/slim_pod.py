"""Pods as far as the agent reads them: users' pods of 1.5 MiB, or of a million small objects, would fill its memory together."""

from __future__ import annotations

from typing import Any

from cmk.isolation.conflicts import image_name, program_of
from cmk.kube import shapes
from cmk.kube.shapes import ShapeError
from cmk.legacy.running import is_workload, loop_of
from cmk.model import pods


def slim(item: Any) -> Any:  # noqa: ANN401  # an item may have any shape
    """A v1 Pod with no more than the agent's readers look at. What is none stays as it is: no API server stored it, so it is small."""
    try:
        obj = shapes.check(item, shapes.BoundPodShape, "a pod")
    except ShapeError:
        return item
    meta, spec = obj["metadata"], obj["spec"]
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta}
    if annotations := {key: text for key, text in (meta.get("annotations") or {}).items() if key in pods.ANNOTATIONS}:
        kept["annotations"] = annotations
    if owners := [ref for ref in meta.get("ownerReferences") or [] if is_workload(ref)]:
        kept["ownerReferences"] = [{key: owners[0][key] for key in ("kind", "name", "controller")}]
    containers = {key: _slim_containers(spec.get(key) or []) for key in ("containers", "initContainers")}
    kept_spec: dict[str, Any] = dict(containers)
    if any("image" in each or "args" in each for each in containers["containers"]):
        paths = [volume["hostPath"]["path"] for volume in spec.get("volumes") or [] if volume.get("hostPath")]
        kept_spec["hostPID"] = bool(spec.get("hostPID"))
        kept_spec["volumes"] = [{"hostPath": {"path": path}} for path in paths]
    return {"metadata": kept, "spec": kept_spec, "status": {"phase": (obj.get("status") or {}).get("phase")}}


def _slim_containers(containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    slimmed = [found for container in containers if (found := _slim_container(container))]
    # Of those that request nothing, one of each kind says as much as thousands.
    return list({place if "resources" in each else str(each): each for place, each in enumerate(slimmed)}.values())


def _slim_container(container: dict[str, Any]) -> dict[str, Any]:
    """Empty if nothing in it matters."""
    kept: dict[str, Any] = {}
    if requests := pods.requests_of(container):
        kept = {"resources": {"requests": requests}, "restartPolicy": container.get("restartPolicy")}
    if program_of(container):
        kept["image"] = image_name(container)
    if loop := loop_of(container):
        kept["args"] = [loop]
    if (container.get("securityContext") or {}).get("privileged"):
        kept["securityContext"] = {"privileged": True}
    return kept
