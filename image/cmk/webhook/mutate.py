"""The mutation of a pod that requests cores: launcher, ``CMK_NUM_CORES``, toleration, annotation. Pure: a pod in, a JSON patch out.

The requests are read from the containers, never from our own annotation, which anybody can write. So a second call finds nothing left to
do, and a container that another webhook has added in between gets the same as the others.
"""

from __future__ import annotations

import posixpath

import msgspec

from cmk.model import onmove, quantity
from cmk.model.errors import CmkError
from cmk.model.pods import MOST_CORES, RESOURCE_PREFIX, pool_of, resource_of
from cmk.model.quantity import QuantityError
from cmk.webhook.draft import Draft, Json, Path
from cmk.webhook.merge import CONTAINERS, merge
from cmk.webhook.rules import Mutations, Rules

ASK = "cmk.intel.com/mutate"
DONE = "cmk.intel.com/resources-injected"
MIRROR = "kubernetes.io/config.mirror"
VOLUME = "cmk-install-dir"
NUM_CORES = "CMK_NUM_CORES"
TOLERATION = {"key": "cmk", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
# Opaque integer resources, which Kubernetes dropped in 1.9: what kcm and the first CMK advertised.
OLD_RESOURCES = {"pod.alpha.kubernetes.io/opaque-int-resource-cmk", "pod.alpha.kubernetes.io/opaque-int-resource-kcm"}
_EXCLUSIVE = resource_of("exclusive")
_TRUE = ("true", "True", "1")
# The order of Intel CMK, for a container that requests cores of two pools.
_FIRST = (_EXCLUSIVE, resource_of("exclusive-non-isolcpus"))
_NO_MUTATIONS = Mutations()
_MAX_WARNINGS = 8
_NO_CPU = "leave requests and limits of cpu out: the request for cores takes their place"


class Decision(msgspec.Struct, frozen=True):
    """The answer about a pod: JSON patch (empty: no change), warnings for its creator, and the reason of a denial (empty: admitted)."""

    patch: list[Json] = []
    warnings: list[str] = []
    denial: str = ""


class _Denied(CmkError):
    """The pod is not admitted; the text is the reason that its creator reads."""


def mutate(pod: Json, rules: Rules) -> Decision:
    """The patch for a v1 Pod whose shape has been checked (``review.PodShape``); changes ``pod`` itself, too."""
    if MIRROR in _annotations(pod):
        return Decision()  # the API object of a static pod, whose containers run already
    draft = Draft(pod)
    try:
        asked = _asked(draft, rules)
        if not any(asked.values()) and _annotations(pod).get(ASK) not in _TRUE:
            return Decision(draft.operations)
        runtime = pod["spec"].get("runtimeClassName")
        if runtime in rules.unsupported_runtime_classes:
            raise _Denied(
                f"runtimeClassName {runtime}: its containers run on a kernel of their own, which cannot be given CPUs of the node; "
                "leave runtimeClassName out, or leave the request for cores out"
            )
        if on_move := _annotations(pod).get(onmove.ANNOTATION):
            _check_on_move(str(on_move))
        if rules.mutations != _NO_MUTATIONS:
            merge(draft, (), rules.mutations.per_pod)
            for path in _containers(pod):
                merge(draft, path, rules.mutations.per_container)
            asked = _asked(draft, rules)  # a mutation may add containers, and requests
    except _Denied as denied:
        return Decision(denial=str(denied))
    for path, cores in asked.items():
        _mount(draft, path, rules)
        if cores:
            _announce(draft, path, cores, rules)
    if not any(_tolerates(item) for item in draft.at(("spec", "tolerations")) or []):
        draft.append(("spec", "tolerations"), TOLERATION)
    draft.put(("metadata", "annotations", DONE), "true")
    warnings = [line for path, cores in asked.items() if cores for line in _warnings(draft, path, cores)]
    if len(warnings) > _MAX_WARNINGS:
        warnings[_MAX_WARNINGS:] = [f"and {len(warnings) - _MAX_WARNINGS} more warnings of this kind"]
    return Decision(draft.operations, warnings)


def _check_on_move(text: str) -> None:
    try:
        onmove.parse(text)
    except onmove.OnMoveError as error:
        raise _Denied(f"annotation {onmove.ANNOTATION}: {error}") from error


def _annotations(pod: Json) -> Json:
    return (pod.get("metadata") or {}).get("annotations") or {}


def _containers(pod: Json) -> list[Path]:
    return [("spec", kind, index) for kind in CONTAINERS for index in range(len(pod["spec"].get(kind) or []))]


def _asked(draft: Draft, rules: Rules) -> dict[Path, dict[str, int]]:
    """Container → resource → cores that it requests, after its resources have got their present names. Raises _Denied."""
    asked = {}
    for path in _containers(draft.document):
        if draft.at((*path, "resources")):
            _modernise(draft, path)
            asked[path] = _cores(draft, path, rules)
        else:
            asked[path] = {}
    return asked


def _modernise(draft: Draft, path: Path) -> None:
    """Replace the resource names of old releases, and add the limit that an extended resource must have."""
    resources: Json = draft.at((*path, "resources"))
    for kind in ("requests", "limits"):
        asked = resources.get(kind) or {}
        for old in sorted(OLD_RESOURCES & asked.keys()):
            count = asked[old]
            draft.drop((*path, "resources", kind, old))
            if count is not None and asked.get(_EXCLUSIVE) is None:
                draft.put((*path, "resources", kind, _EXCLUSIVE), str(count))
    limits = resources.get("limits") or {}
    for name, count in (resources.get("requests") or {}).items():
        if _is_cores(name) and count is not None and limits.get(name) is None:
            draft.put((*path, "resources", "limits", name), count)


def _is_cores(name: str) -> bool:
    return name.startswith(RESOURCE_PREFIX) and name.endswith("-cores")


def _cores(draft: Draft, path: Path, rules: Rules) -> dict[str, int]:
    """Resource name → cores that a container requests, without requests of 0. Raises _Denied."""
    resources = draft.at((*path, "resources")) or {}
    merged = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    cores = {}
    for name in filter(_is_cores, merged):
        where = f"container {draft.at((*path, 'name'))} asks for {name}"
        try:
            count = quantity.whole(str(merged[name]))
        except QuantityError as error:
            raise _Denied(f"{where}: {error}; a core has one owner") from error
        if count > MOST_CORES:
            raise _Denied(f"{where}: {str(merged[name])[:40]} is more than {MOST_CORES}, and than any node has; lower it")
        pool = pool_of(name)
        if rules.pools is not None and pool not in rules.pools:
            pools = ", ".join(sorted(rules.pools)) or "none"
            raise _Denied(f"{where}: there is no exclusive pool {pool}; there are: {pools}. A shared pool needs no request")
        if count:
            cores[name] = count
    return dict(sorted(cores.items(), key=lambda item: (_FIRST.index(item[0]) if item[0] in _FIRST else len(_FIRST), item[0])))


def _mount(draft: Draft, path: Path, rules: Rules) -> None:
    """Mount the install directory at the mount path, unless the container mounts it somewhere or mounts something else there."""
    volumes = draft.at(("spec", "volumes")) or []
    ours = {item.get("name") for item in volumes if (item.get("hostPath") or {}).get("path") == rules.install_dir}
    for mount in draft.at((*path, "volumeMounts")) or []:
        at = posixpath.normpath(mount.get("mountPath") or "/")
        if mount.get("name") in ours or f"{at}/".startswith(f"{rules.mount_path}/"):
            return
    if ours:
        name = min(ours, key=str)
    else:
        taken = {item.get("name") for item in volumes}
        names = (VOLUME, *(f"{VOLUME}-{number}" for number in range(2, len(taken) + 3)))
        name = next(item for item in names if item not in taken)
        draft.append(("spec", "volumes"), {"name": name, "hostPath": {"path": rules.install_dir, "type": "Directory"}})
    draft.append((*path, "volumeMounts"), {"name": name, "mountPath": rules.mount_path, "readOnly": True})


def _announce(draft: Draft, path: Path, cores: dict[str, int], rules: Rules) -> None:
    """Set the number of cores for ``cmk isolate``, and with ``cpu_requests`` for the scheduler."""
    if not any(entry.get("name") == NUM_CORES for entry in draft.at((*path, "env")) or []):
        draft.append((*path, "env"), {"name": NUM_CORES, "value": str(next(iter(cores.values())))})
    resources = draft.at((*path, "resources"))
    if rules.cpu_requests and not any("cpu" in (resources.get(kind) or {}) for kind in ("requests", "limits")):
        draft.put((*path, "resources", "requests", "cpu"), str(sum(cores.values())))


def _tolerates(toleration: Json) -> bool:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if (toleration.get("effect") or "NoSchedule") != "NoSchedule" or key not in ("", "cmk"):
        return False
    return operator == "Exists" or (key == "cmk" and toleration.get("value") == "true")


def _warnings(draft: Draft, path: Path, cores: dict[str, int]) -> list[str]:
    container, name = draft.at(path), draft.at((*path, "name"))
    warnings = []
    resources = container["resources"]
    limit, request = ((resources.get(kind) or {}).get("cpu") for kind in ("limits", "requests"))
    if limit is not None:
        warnings.append(f"container {name} has limits.cpu {limit}: the kernel throttles it on its own cores; {_NO_CPU}")
    elif request is not None and not _equals(str(request), sum(cores.values())):
        warnings.append(
            f"container {name} has requests.cpu {request} beside its {sum(cores.values())} exclusive cores; {_NO_CPU}"
        )
    if len(set(cores.values())) > 1 and any(
        entry == {"name": NUM_CORES, "value": str(next(iter(cores.values())))} for entry in container["env"]
    ):
        warnings.append(
            f"container {name} asks for cores of several pools: {NUM_CORES} is that of {next(iter(cores))}; set it at each cmk isolate"
        )
    return warnings


def _equals(text: str, count: int) -> bool:
    try:
        return quantity.parse(text) == count
    except QuantityError:
        return False  # the API server refuses what is not a quantity
