"""Who breaks into a node has the token of its agent: what it can do to other nodes, and to its own beyond what is cmk's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.api import JSON, ApiError, ApiServer
from tests.cluster.cluster import NAMESPACE, RESOURCE, Cluster, Json, wait_for
from tests.cluster.nodes import settle

MERGE, STRATEGIC, LIST = (f"application/{kind}+json" for kind in ("merge-patch", "strategic-merge-patch", "json-patch"))
NODES, REPORTS, EVENTS = "/api/v1/nodes", "/apis/cmk.intel.com/v1/cmk-nodereports", "/api/v1/namespaces/default/events"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/cmk-rollout-0"
LABEL = "cmk.intel.com/cmk-node"


def event(kind: str, name: str, host: str) -> Json:
    about = {"kind": kind, "name": name, "uid": name} | ({"namespace": "default"} if kind == "Pod" else {})
    return {
        "metadata": {"generateName": "stolen.", "namespace": "default"},
        "involvedObject": about,
        "source": {"component": "cmk", "host": host},
        "reason": "Test",
        "message": "test",
        "type": "Normal",
    }


def metadata(**fields: Any) -> Json:  # noqa: ANN401
    return {"metadata": fields}


def taint(effect: str = "NoSchedule", key: str = "cmk", value: str = "true") -> Json:
    return {"spec": {"taints": [{"key": key, "value": value, "effect": effect}]}}


def capacity(name: str, amount: str | None) -> Json:
    return {"status": {"capacity": {name: amount}}}


CONDITION = {"type": "Ready", "status": "False", "reason": "Stolen", "message": "stolen"}
OTHER, OWN = f"{NODES}/node2", f"{NODES}/node1"
# Words of the refusal, and the request.
REFUSED: dict[str, tuple[str, str, str, Any, str]] = {
    "label of another node": ("no node but its own", "PATCH", OTHER, metadata(labels={LABEL: "true", "x": "y"}), MERGE),
    "cmk's label of another node": ("no node but its own", "PATCH", OTHER, metadata(labels={LABEL: None}), MERGE),
    "taint of another node": ("no node but its own", "PATCH", OTHER, taint(), MERGE),
    "cordon of another node": ("no node but its own", "PATCH", OTHER, {"spec": {"unschedulable": True}}, STRATEGIC),
    "capacity of another node": ("the status of no node but its own", "PATCH", f"{OTHER}/status", capacity(RESOURCE, "9"), MERGE),
    "condition of another node": (
        "the status of no node but its own",
        "PATCH",
        f"{OTHER}/status",
        {"status": {"conditions": [CONDITION]}},
        STRATEGIC,
    ),
    "foreign label": ("no label but", "PATCH", OWN, metadata(labels={"node-role.kubernetes.io/control-plane": ""}), MERGE),
    "foreign label, changed": ("no label but", "PATCH", OWN, metadata(labels={"kubernetes.io/hostname": "node2"}), MERGE),
    "foreign label, removed": ("no label but", "PATCH", OWN, metadata(labels={"kubernetes.io/hostname": None}), MERGE),
    "all labels": ("no label but", "PATCH", OWN, [{"op": "remove", "path": "/metadata/labels"}], LIST),
    "cmk's label with another value": ("no label but", "PATCH", OWN, metadata(labels={LABEL: "stolen"}), MERGE),
    "annotation": ("no annotation", "PATCH", OWN, metadata(annotations={"stolen": "true"}), MERGE),
    "finalizer": ("no annotation", "PATCH", OWN, metadata(finalizers=["cmk.intel.com/stolen"]), MERGE),
    "owner": (
        "no annotation",
        "PATCH",
        OWN,
        metadata(ownerReferences=[{"apiVersion": "v1", "kind": "Node", "name": "node2", "uid": "x"}]),
        MERGE,
    ),
    "cordon": ("neither cordon", "PATCH", OWN, {"spec": {"unschedulable": True}}, MERGE),
    "provider": ("neither cordon", "PATCH", OWN, {"spec": {"providerID": "stolen://1"}}, MERGE),
    "foreign taint": ("no taint but", "PATCH", OWN, taint(key="stolen"), STRATEGIC),
    "taint that evicts": ("no taint but", "PATCH", OWN, taint("NoExecute"), MERGE),
    "taint with another value": ("no taint but", "PATCH", OWN, taint(value="stolen"), MERGE),
    "capacity of cpu": ("no resource but", "PATCH", f"{OWN}/status", capacity("cpu", "999"), MERGE),
    "capacity of cpu, removed": ("no resource but", "PATCH", f"{OWN}/status", capacity("cpu", None), MERGE),
    "foreign resource": ("no resource but", "PATCH", f"{OWN}/status", capacity("nvidia.com/gpu", "8"), MERGE),
    "allocatable": ("no resource but", "PATCH", f"{OWN}/status", {"status": {"allocatable": {"memory": "1"}}}, MERGE),
    "condition": ("nothing of a node's status", "PATCH", f"{OWN}/status", {"status": {"conditions": [CONDITION]}}, STRATEGIC),
    "address": (
        "nothing of a node's status",
        "PATCH",
        f"{OWN}/status",
        [{"op": "replace", "path": "/status/addresses", "value": [{"type": "InternalIP", "address": "10.0.0.1"}]}],
        LIST,
    ),
    "label by the status": ("metadata by its status", "PATCH", f"{OWN}/status", metadata(labels={"stolen": "true"}), MERGE),
    "cmk's label by the status": ("metadata by its status", "PATCH", f"{OWN}/status", metadata(labels={LABEL: None}), MERGE),
    "annotation by the status": (
        "metadata by its status",
        "PATCH",
        f"{OWN}/status",
        metadata(annotations={"stolen": "true"}),
        MERGE,
    ),
    "report of another node": ("no report but", "DELETE", f"{REPORTS}/node2", None, JSON),
    "report of no node": (
        "no report but",
        "POST",
        REPORTS,
        {"apiVersion": "cmk.intel.com/v1", "kind": "NodeReport", "metadata": {"name": "stolen"}},
        JSON,
    ),
    "report of a made up name": (
        "no report but",
        "POST",
        REPORTS,
        {"apiVersion": "cmk.intel.com/v1", "kind": "NodeReport", "metadata": {"generateName": "node"}},
        JSON,
    ),
    "event about another node": ("events about its own node", "POST", EVENTS, event("Node", "node2", "node1"), JSON),
    "event of another node": ("events about its own node", "POST", EVENTS, event("Node", "node1", "node2"), JSON),
    "event of another node about a pod": ("events about its own node", "POST", EVENTS, event("Pod", "p", "node2"), JSON),
    "event about a Secret": ("events about its own node", "POST", EVENTS, event("Secret", "s", "node1"), JSON),
}
ALLOWED: dict[str, tuple[str, str, Any, str]] = {
    "cmk's label": ("PATCH", OWN, metadata(labels={LABEL: "true"}), STRATEGIC),
    "cmk's resource": (
        "PATCH",
        f"{OWN}/status",
        {"status": {part: {RESOURCE: "1"} for part in ("capacity", "allocatable")}},
        STRATEGIC,
    ),
    "event about its own node": ("POST", EVENTS, event("Node", "node1", "node1"), JSON),
    "event about a pod": ("POST", EVENTS, event("Pod", "p", "node1"), JSON),
}


def attempt(api: ApiServer, token: str, words: str, method: str, path: str, body: Any, kind: str = JSON) -> None:  # noqa: ANN401
    """Make a request that the policies have to refuse, in these words."""
    with pytest.raises(ApiError, match="ValidatingAdmissionPolicy") as refusal:
        api.request(method, path, body, kind, token)
    assert refusal.value.status == 403
    assert words in str(refusal.value)


def lease_as(api: ApiServer, **spec: Any) -> Json:  # noqa: ANN401
    """The Lease of a turn with these fields of its spec."""
    lease = api.request("GET", LEASE)
    return {**lease, "spec": {**(lease.get("spec") or {}), **spec}}


@pytest.fixture
def token(cluster: Cluster) -> str:
    """The token of node1's agent, out of its container."""
    (pid,) = cluster.agent_pids(1)
    # Not by /var/run, an absolute link, which would lead out of the container.
    return cluster.on_node(1, f"cat /proc/{pid}/root/run/secrets/kubernetes.io/serviceaccount/token").strip()


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_a_stolen_token_changes_nothing_but_what_is_cmks_on_its_own_node(
    cluster: Cluster, token: str, request_: tuple[str, str, str, Any, str]
) -> None:
    attempt(cluster.api, token, *request_)


@pytest.mark.parametrize("request_", ALLOWED.values(), ids=ALLOWED)
def test_what_an_agent_does_is_allowed(cluster: Cluster, token: str, request_: tuple[str, str, Any, str]) -> None:
    cluster.api.request(*request_, token)


def test_cmks_taint_is_the_agents_and_no_other(cluster: Cluster, token: str) -> None:
    found = cluster.get("node", "node1")["spec"].get("taints") or []
    others, ours = [item for item in found if item["key"] != "cmk"], taint()["spec"]["taints"]
    foreign = {"key": "test", "value": "x", "effect": "PreferNoSchedule"}
    cluster.api.request("PATCH", OWN, {"spec": {"taints": [*others, foreign, *ours]}}, MERGE)
    try:
        attempt(cluster.api, token, "no taint but", "PATCH", OWN, {"spec": {"taints": [*others, *ours]}}, MERGE)
        for taints in ([*others, foreign], [*others, foreign, *ours]):
            cluster.api.request("PATCH", OWN, {"spec": {"taints": taints}}, MERGE, token)
    finally:
        cluster.api.request("PATCH", OWN, {"spec": {"taints": [*others, *ours]}}, MERGE)


def test_a_report_can_be_written_by_the_agent_of_its_node_alone(cluster: Cluster, token: str) -> None:
    def written(node: str) -> Json:
        report = cluster.get("cmk-nodereport", node)
        return {key: value for key, value in report.items() if key != "managedFields"}

    attempt(cluster.api, token, "no report but", "PUT", f"{REPORTS}/node2", written("node2"))
    cluster.api.request("DELETE", f"{REPORTS}/node1", token=token)
    wait_for("the agent has written its report again", lambda: cluster.find("cmk-nodereport", "node1"))


def test_a_token_that_names_no_node_changes_nothing(cluster: Cluster) -> None:
    wanted = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = cluster.api.request("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/cmk-node/token", wanted)
    for method, path, body, kind in ALLOWED.values():
        with pytest.raises(ApiError, match="ValidatingAdmissionPolicy"):
            cluster.api.request(method, path, body, kind, made["status"]["token"])


@pytest.fixture
def turns(cluster: Cluster) -> Iterator[Cluster]:
    """One node at a time may change its pools."""
    cluster.upgrade("--set", "rollout.maxUnavailable=1")
    settle(cluster)
    yield cluster
    cluster.upgrade()
    settle(cluster)


def test_a_turn_of_the_roll_out_is_taken_for_the_own_node_alone(turns: Cluster, token: str) -> None:
    api = turns.api

    def is_refused() -> bool:
        try:
            api.request("PUT", LEASE, lease_as(api, holderIdentity="node2", leaseDurationSeconds=15), token=token)
        except ApiError as error:
            return "no node but its own" in str(error)
        return False

    wait_for("the API server has the policy", is_refused)
    attempt(api, token, "15 seconds at a time", "PUT", LEASE, lease_as(api, holderIdentity="node1", leaseDurationSeconds=3600))
    api.request("PUT", LEASE, lease_as(api, holderIdentity="node1", leaseDurationSeconds=15), token=token)
    api.request("PUT", LEASE, lease_as(api, holderIdentity=""), token=token)
    api.request("PUT", LEASE, lease_as(api, holderIdentity="node2", leaseDurationSeconds=15))
    attempt(api, token, "end no other", "PUT", LEASE, lease_as(api, holderIdentity=""))
    api.request("PUT", LEASE, lease_as(api, holderIdentity=""))
