"""The Jobs that helm waits for: where they run, and what is left of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.cluster import NAMESPACE, Cluster, Json, manifest, wait_for

HOOKS = ("--set", "plan.enabled=true,verify.enabled=true,verify.timeoutSeconds=60")
HOOK = "app.kubernetes.io/component=hook"


def ready(cluster: Cluster, node: str) -> Json:
    return next(item for item in cluster.get("node", node)["status"]["conditions"] if item["type"] == "Ready")


def unschedulable(cluster: Cluster, node: str) -> bool:
    taints = cluster.get("node", node)["spec"].get("taints") or []
    return {"NoSchedule", "NoExecute"} <= {
        taint["effect"] for taint in taints if taint["key"] == "node.kubernetes.io/unreachable"
    }


def placed(cluster: Cluster) -> dict[str, str]:
    """What the scheduler said of hooks: event → Successfully assigned NAMESPACE/JOB-SUFFIX to NODE."""
    found = cluster.get("events", "-n", NAMESPACE, "--field-selector", "reason=Scheduled")["items"]
    return {event["metadata"]["name"]: event["message"] for event in found if "/cmk-node-" not in event["message"]}


@contextmanager
def stopped_kubelet(cluster: Cluster, number: int) -> Iterator[None]:
    """A node whose kubelet says nothing any more, and that the controller manager has given up."""
    node = f"node{number}"
    cluster.script("stop-kubelet", str(number))
    try:
        # What the controller manager would write itself after 50 s of silence, and acts upon whoever wrote it.
        condition = {**ready(cluster, node), "status": "Unknown", "reason": "NodeStatusUnknown"}
        patch = json.dumps({"status": {"conditions": [condition]}})
        cluster.kubectl("patch", "node", node, "--subresource=status", "--patch", patch)
        wait_for(f"{node} is given up", lambda: unschedulable(cluster, node))
        yield
    finally:
        cluster.script("start-kubelet", str(number))
        wait_for(f"{node} is back", lambda: ready(cluster, node)["status"] == "True" and not unschedulable(cluster, node))


def test_a_node_whose_kubelet_stands_holds_up_no_upgrade(cluster: Cluster) -> None:
    heavy = manifest("heavy", ("sleep", "3600"))
    heavy["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1500m"}}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(heavy))
    try:
        wait_for("node1 is the fuller one", lambda: cluster.get("pod", "heavy")["status"]["phase"] == "Running")
        with stopped_kubelet(cluster, 2):
            before = placed(cluster)
            cluster.upgrade(*HOOKS)
            new = [placed(cluster)[name] for name in placed(cluster).keys() - before.keys()]
            assert sorted((text.split("/")[1].rsplit("-", 1)[0], text.split()[-1]) for text in new) == [
                ("cmk-plan", "node1"),
                ("cmk-verify", "node1"),
            ]
    finally:
        cluster.kubectl("delete", "pod", "heavy", "--grace-period=0", "--force")
    cluster.upgrade()


def left(cluster: Cluster, label: str) -> set[str]:
    found = cluster.get("jobs,pods,configmaps,serviceaccounts,roles,rolebindings", "-n", NAMESPACE, "-l", label)["items"]
    found += cluster.get("clusterroles,clusterrolebindings", "-l", label)["items"]
    return {f"{item['kind']} {item['metadata']['name']}" for item in found}


def test_hooks_leave_nothing_but_rights_that_stand(cluster: Cluster) -> None:
    cluster.upgrade(*HOOKS)
    wait_for("nothing is left", lambda: left(cluster, HOOK) == set())
    rights = {f"{kind} cmk-hooks" for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding")}
    assert left(cluster, f"{HOOK}-rights") == rights
    cluster.upgrade()
    assert left(cluster, f"{HOOK}-rights") == set(), "nobody needs them without plan and verify"
