"""The shapes of objects as far as cmk reads them, checked where they come from the API server.

The API server checks types before it stores an object. What comes here in another shape was made or cut by something between.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cmk.kube.client import ApiError, Json

_Texts = dict[str, str] | None
_Quantities = dict[str, str | int | float] | None


class ShapeError(ApiError):
    """An answer or object that is not what the API promises; the text says where and how it differs, and has nothing of its contents."""


class OwnerShape(msgspec.Struct):
    """An owner reference."""

    kind: str
    name: str
    controller: bool | None = None


class MetaShape(msgspec.Struct, rename="camel"):
    """``metadata`` of every object."""

    name: str
    resource_version: str = ""
    labels: _Texts = None
    annotations: _Texts = None
    owner_references: list[OwnerShape] | None = None


class NamedShape(msgspec.Struct):
    """An object of any kind."""

    metadata: MetaShape


class _Taint(msgspec.Struct):
    key: str
    effect: str
    value: str | None = None


class _NodeSpec(msgspec.Struct):
    taints: list[_Taint] | None = None


class _NodeStatus(msgspec.Struct):
    capacity: _Quantities = None
    allocatable: _Quantities = None


class NodeShape(msgspec.Struct):
    """A v1 Node."""

    metadata: MetaShape
    spec: _NodeSpec
    status: _NodeStatus | None = None


class ConfigMapShape(msgspec.Struct):
    """A v1 ConfigMap."""

    metadata: MetaShape
    data: _Texts = None


class _ResourcesShape(msgspec.Struct):
    limits: _Quantities = None
    requests: _Quantities = None


class _SecurityShape(msgspec.Struct):
    privileged: bool | None = None


class _ContainerShape(msgspec.Struct, rename="camel"):
    image: str | None = None
    resources: _ResourcesShape | None = None
    restart_policy: str | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    security_context: _SecurityShape | None = None


class _HostPathShape(msgspec.Struct):
    path: str


class _VolumeShape(msgspec.Struct, rename="camel"):
    host_path: _HostPathShape | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    containers: list[_ContainerShape]
    init_containers: list[_ContainerShape] | None = None
    volumes: list[_VolumeShape] | None = None


class _PodStatus(msgspec.Struct):
    phase: str | None = None


class _PodMeta(MetaShape, kw_only=True):
    uid: str
    namespace: str


class BoundPodShape(msgspec.Struct):
    """A v1 Pod."""

    metadata: _PodMeta
    spec: _PodSpec
    status: _PodStatus | None = None


def check(item: object, shape: type[msgspec.Struct], what: str) -> Json:
    """``item`` if it has the shape; ``what`` names it in the ShapeError that is raised if not."""
    try:
        msgspec.convert(item, shape)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ShapeError(f"{what} is malformed: {error}") from error
    return item  # type: ignore[return-value]  # a struct is made of nothing but a dict


def items_of(listed: object, kind: str, what: str) -> list[Any]:
    """The items of a list of ``kind``, which may be null in place of empty; raises ShapeError."""
    answer = listed if isinstance(listed, dict) else {}
    named, items = answer.get("kind", f"{kind}List"), answer.get("items", False)
    if named != f"{kind}List" or not (items is None or isinstance(items, list)):
        raise ShapeError(f"{what} is no list of {kind}s")
    return items or []


# msgspec looks into a type when it is first used, and ends the process when two threads do so at once: watches are threads.
for _shape in (NamedShape, NodeShape, ConfigMapShape, BoundPodShape):
    msgspec.json.Decoder(_shape)
del _shape
