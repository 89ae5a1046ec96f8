"""Signs in API objects that an Intel CMK or kcm still runs: beside it, an agent would allocate cores that are taken."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from cmk.model.pods import reaches_host

WEBHOOK = "cmk-webhook-config"
CRDS = ("cmk-nodereports.intel.com", "cmk-reconcilereports.intel.com")
# Kinds that make pods in their own namespace. The owner of a static pod is its node.
_OWNERS = {"DaemonSet", "Job", "ReplicaSet", "ReplicationController", "StatefulSet"}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.MULTILINE)
_LOOP = re.compile(r"(?:^|[\s/])(?:cmk|kcm)(?:\.py)?\s+(?:--\s+)?(?:reconcile|node-report)\b")


def removal_of_daemons(pods: Iterable[dict[str, Any]], own: Collection[str]) -> list[str]:
    """Commands that remove the owners of those pods that still run one of CMK's loops, each once.

    All that CMK ever deployed mounts the host's /proc: a pod that does not reach beyond the directories ``own``, cmk's, is none of its.
    """
    commands = []
    for pod in pods:
        if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"} or not reaches_host(pod, own) or not _runs_loop(pod):
            continue
        commands.append(f"kubectl -n {pod['metadata']['namespace']} delete {_to_remove(pod['metadata'])}")
    return sorted(set(commands))


def _to_remove(meta: dict[str, Any]) -> str:
    """Kind and name of the pod's controller if they are a workload's, else of the pod.

    They will be pasted into a shell. Who made the pod wrote its owner references; the API server checks only the pod's name.
    """
    for owner in meta.get("ownerReferences") or []:
        if is_workload(owner):
            return f"{owner['kind'].lower()} {owner['name']}"
    return f"pod {meta['name']}"


def is_workload(owner: dict[str, Any]) -> bool:
    """Whether an owner reference names a controller that can be removed with its pods, by a name that it can have."""
    return bool(owner.get("controller") and owner["kind"] in _OWNERS and _NAME.fullmatch(owner["name"]))


def _runs_loop(pod: dict[str, Any]) -> bool:
    return any(loop_of(container) for container in pod["spec"]["containers"])


def loop_of(container: dict[str, Any]) -> str:
    """The part of a container's command line that runs one of CMK's loops; empty when none does."""
    words = [*(container.get("command") or []), *(container.get("args") or [])]
    found = _LOOP.search(" ".join(_COMMENT.sub("", text) for text in words))
    return " ".join(found.group().split()) if found else ""
