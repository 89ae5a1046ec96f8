"""Pods for the tests of the webhook."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch

from cmk.webhook.draft import Json
from cmk.webhook.mutate import Decision, mutate
from cmk.webhook.rules import Rules

CORES = "cmk.intel.com/exclusive-cores"
MOUNT = {"name": "cmk-install-dir", "mountPath": "/opt/bin", "readOnly": True}
VOLUME = {"name": "cmk-install-dir", "hostPath": {"path": "/opt/cmk", "type": "Directory"}}
TOLERATION = {"key": "cmk", "operator": "Equal", "value": "true", "effect": "NoSchedule"}


def container(name: str = "app", cores: Any = None, **more: Any) -> Json:  # noqa: ANN401  # whatever somebody may write
    """A container, asking for cores as limit and request."""
    asked = {"resources": {"requests": {CORES: cores}, "limits": {CORES: cores}}} if cores is not None else {}
    return {"name": name, "image": "i", **asked, **more}


def pod(*containers: Json, annotations: Any = None, **spec: Any) -> Json:  # noqa: ANN401
    """A pod."""
    meta = {"name": "p"} if annotations is None else {"name": "p", "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": list(containers), **spec}}


def changed(before: Json, rules: Rules | None = None) -> tuple[Json, Decision]:
    """The pod after the patch, as the API server makes it of the patch alone; a second call must find nothing to do."""
    rules = rules or Rules()
    decision = mutate(copy.deepcopy(before), rules)
    after = jsonpatch.apply_patch(before, decision.patch)
    assert mutate(copy.deepcopy(after), rules).patch == []
    return after, decision
