"""The README's way out, on the cluster that all tests before have used."""

from __future__ import annotations

from tests.cluster.cluster import NAMESPACE, REPO, RESOURCE, Cluster, wait_for


def test_the_way_out_leaves_nothing_on_the_nodes(cluster: Cluster) -> None:
    text = (REPO / "README.md").read_text()
    steps = text.split("## Uninstall")[1].split("```")[1].strip().splitlines()
    assert [line.split()[0] for line in steps] == ["kubectl", "kubectl", "helm"]
    for line in steps:
        cluster.script("run", *line.split())
    for node in cluster.get("nodes")["items"]:
        assert not [name for name in node["metadata"]["labels"] if "cmk" in name]
        assert not [taint for taint in node["spec"].get("taints") or [] if taint["key"] == "cmk"]
        assert RESOURCE not in {**node["status"]["capacity"], **node["status"]["allocatable"]}
        number = int(node["metadata"]["name"].removeprefix("node"))
        assert cluster.on_node(number, "ls -A /opt/cmk /opt/bin /etc/cmk | grep -v :$ | grep .", check=False) == ""
    assert cluster.get("clusterroles", "-l", "app.kubernetes.io/name=cmk")["items"] == []
    for kind in ("daemonsets", "deployments", "jobs", "roles", "poddisruptionbudgets"):
        assert cluster.get(kind, "-n", NAMESPACE)["items"] == []
    assert cluster.get("mutatingwebhookconfigurations")["items"] == []
    # What hooks and keeper made goes with the Deployment.
    wait_for("Secret and Lease are collected", lambda: not cluster.get("secrets,leases", "-n", NAMESPACE)["items"])
