"""Signs in API objects that an Intel CMK or kcm still runs: beside it, an agent would allocate cores that are taken."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

WEBHOOK = "cmk-webhook-config"
CRDS = ("cmk-nodereports.intel.com", "cmk-reconcilereports.intel.com")
_LOOP = re.compile(r"(?:^|[\s/])(?:cmk|kcm)(?:\.py)?\s+(?:--\s+)?(?:reconcile|node-report)\b")


def removal_of_daemons(pods: Iterable[dict[str, Any]]) -> list[str]:
    """Commands that remove the owners of those pods that still run one of CMK's loops, each once."""
    commands = []
    for pod in pods:
        if (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"} or not _runs_loop(pod):
            continue
        meta = pod["metadata"]
        owner: dict[str, Any] = next((ref for ref in meta.get("ownerReferences") or [] if ref.get("controller")), {})
        kind, name = (str(owner.get("kind")).lower(), owner["name"]) if owner else ("pod", meta["name"])
        commands.append(f"kubectl -n {meta['namespace']} delete {kind} {name}")
    return sorted(set(commands))


def _runs_loop(pod: dict[str, Any]) -> bool:
    lines = (" ".join([*(item.get("command") or []), *(item.get("args") or [])]) for item in pod["spec"]["containers"])
    return any(_LOOP.search(line) for line in lines)
