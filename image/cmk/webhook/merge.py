"""The merge of an operator's mutations into a pod. Pure.

Maps are merged; where both have a value, the mutation's wins. Items missing from a list are appended; an item with the same key (name,
mount path…) is merged when it is a container and replaced otherwise: half of one volume and half of another do not make a volume. A second
merge of the same mutations changes nothing.
"""

from __future__ import annotations

from typing import Any

from cmk.webhook.draft import Draft, Json, Path

CONTAINERS = ("initContainers", "containers")
# The key that identifies an item, by the name of the list; in other lists an item is identified by its whole value.
_KEYS = {
    "containers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "resourceClaims": "name",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}


def merge(draft: Draft, path: Path, addition: Json) -> None:
    """Merge a map into the map at ``path``."""
    for key, value in addition.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            draft.map(here)
            merge(draft, here, value)
        elif isinstance(value, list):
            _merge_list(draft, here, value)
        else:
            draft.put(here, value)


def _merge_list(draft: Draft, path: Path, additions: list[Any]) -> None:
    key = _KEYS.get(str(path[-1]))
    for value in additions:
        current = draft.at(path)
        items = current if isinstance(current, list) else []
        if value in items:
            continue
        index = _find(items, key, value)
        if index is None:
            draft.append(path, value)
        elif path[-1] in CONTAINERS:
            merge(draft, (*path, index), value)
        else:
            draft.replace((*path, index), value)


def _find(items: list[Any], key: str | None, value: Any) -> int | None:  # noqa: ANN401  # JSON
    if key is None or not isinstance(value, dict):
        return None
    for index, item in enumerate(items):
        if isinstance(item, dict) and item.get(key) == value.get(key):
            return index
    return None
