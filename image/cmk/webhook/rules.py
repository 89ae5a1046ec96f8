"""The operator's settings for the webhook's mutation of pods, and their checks. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from cmk.model.errors import CmkError
from cmk.webhook.draft import Json

# All other metadata is a pod's identity and its owners: an admission webhook cannot change the former and must not change the latter.
_METADATA = ("annotations", "labels")


class RulesError(CmkError):
    """The mutations cannot be applied to any pod."""


class Mutations(
    msgspec.Struct, frozen=True, rename={"per_pod": "perPod", "per_container": "perContainer"}, forbid_unknown_fields=True
):
    """Parts of a v1 Pod and of a v1 Container, merged into every pod that requests cores and into each of its containers."""

    per_pod: Json = {}
    per_container: Json = {}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """``install_dir`` is a directory of the node, ``mount_path`` where containers mount it.

    ``cpu_requests`` adds ``requests.cpu`` for the requested cores. ``pools`` are the exclusive pools of the cluster, None when not known.
    """

    install_dir: str = "/opt/cmk"
    mount_path: str = "/opt/bin"
    unsupported_runtime_classes: frozenset[str] = frozenset()
    cpu_requests: bool = False
    pools: frozenset[str] | None = None
    mutations: Mutations = Mutations()


def checked(mutations: Mutations) -> Mutations:
    """Check for everything that the API server would refuse in every pod, or would ignore; raises RulesError with the place.

    Returns the mutations with ``serviceAccountName`` for ``serviceAccount``, its old name: the API server has set the new one before it
    calls the webhook, and ignores the old one.
    """
    pod = mutations.per_pod
    for key in pod.keys() - {"metadata", "spec"}:
        raise RulesError(f"perPod.{key} is not known: perPod has metadata and spec")
    metadata, spec = _map(pod, "perPod", "metadata"), _map(pod, "perPod", "spec")
    for key in metadata.keys() - set(_METADATA):
        raise RulesError(f"perPod.metadata.{key}: a webhook sets {' and '.join(_METADATA)} only")
    for key in _METADATA:
        for name, value in _map(metadata, "perPod.metadata", key).items():
            if not isinstance(value, str):
                raise RulesError(f"perPod.metadata.{key}.{name}: {value!r} is not a string: quote it")
    for key in ("containers", "initContainers", "volumes", "imagePullSecrets"):
        _named(spec, "perPod.spec", key, "name")
    _list(spec, "perPod.spec", "tolerations")
    for key in ("name", "image"):
        if key in mutations.per_container:
            raise RulesError(f"perContainer.{key} would be the same in every container: leave it out")
    _named(mutations.per_container, "perContainer", "env", "name")
    _named(mutations.per_container, "perContainer", "volumeMounts", "mountPath")
    for index, entry in enumerate(mutations.per_container.get("env") or []):
        if not isinstance(entry.get("value", ""), str):
            raise RulesError(f"perContainer.env[{index}].value: {entry['value']!r} is not a string: quote it")
    if "serviceAccount" in spec:
        spec = {**spec, "serviceAccountName": spec.get("serviceAccountName", spec["serviceAccount"])}
        return msgspec.structs.replace(mutations, per_pod={**pod, "spec": spec})
    return mutations


def hazards(mutations: Mutations) -> list[str]:
    """One line for each privilege that the mutations give to pods without need, as those that Intel CMK shipped do."""
    spec = mutations.per_pod.get("spec") or {}
    lines = []
    if "serviceAccountName" in spec:
        lines.append(
            f"perPod.spec.serviceAccountName gives every pod that asks for cores the rights of {spec['serviceAccountName']}"
        )
    if any(item.get("operator") == "Exists" and not item.get("key") for item in spec.get("tolerations") or []):
        lines.append("perPod.spec.tolerations: Exists without a key lets pods onto every node, control planes included")
    for volume in spec.get("volumes") or []:
        if (volume.get("hostPath") or {}).get("path") in ("/", "/proc"):
            lines.append(f"perPod.spec.volumes: {volume['name']} shows pods {volume['hostPath']['path']} of the node")
    return [f"{line}; cmk isolate needs none of it" for line in lines]


def _map(parent: Json, place: str, key: str) -> Json:
    value = parent.get(key)
    if value is not None and not isinstance(value, dict):
        raise RulesError(f"{place}.{key}: expected a map, got {value!r}")
    return value or {}


def _list(parent: Json, place: str, key: str) -> list[Any]:
    value = parent.get(key)
    if value is not None and not isinstance(value, list):
        raise RulesError(f"{place}.{key}: expected a list, got {value!r}")
    for index, item in enumerate(value or []):
        if not isinstance(item, dict):
            raise RulesError(f"{place}.{key}[{index}]: expected a map, got {item!r}")
    return value or []


def _named(parent: Json, place: str, key: str, name: str) -> None:
    for index, item in enumerate(_list(parent, place, key)):
        if not isinstance(item.get(name), str) or not item[name]:
            raise RulesError(f"{place}.{key}[{index}].{name} is missing")
