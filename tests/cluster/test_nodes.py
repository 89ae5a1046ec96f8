"""Nodes come into the selection, stay as they should be, and leave it."""

import json

import pytest

from tests.cluster.cluster import RESOURCE, Cluster, wait_for
from tests.cluster.nodes import leave, prepare, state

LABEL = "cmk.intel.com/cmk-node"


def test_install_touches_no_node(installed: Cluster) -> None:
    for node in installed.get("nodes")["items"]:
        assert LABEL not in node["metadata"]["labels"]
        assert not [taint for taint in node["spec"].get("taints") or [] if taint["key"] == "cmk"]
        assert RESOURCE not in node["status"]["capacity"]
    assert installed.get("daemonset", "-n", "cmk", "cmk-node")["status"]["desiredNumberScheduled"] == 0


def test_the_label_prepares_a_node_and_its_removal_undoes_it(installed: Cluster) -> None:
    prepare(installed, "node1")
    node = installed.get("node", "node1")
    assert node["metadata"]["labels"][LABEL] == "true"
    assert {"key": "cmk", "value": "true", "effect": "NoSchedule"} in node["spec"]["taints"]
    assert installed.capacity() == ("1", "1")
    assert installed.on_node(1, "ls /opt/cmk /opt/bin /etc/cmk").split().count("agent.sock") == 3

    leave(installed, "node1")
    node = installed.get("node", "node1")
    assert LABEL not in node["metadata"]["labels"]
    assert not [taint for taint in node["spec"].get("taints") or [] if taint["key"] == "cmk"]
    wait_for("the resource is gone", lambda: installed.capacity() == (None, None))
    wait_for(
        "the files are gone",
        lambda: installed.on_node(1, "ls /opt/cmk /opt/bin /etc/cmk | grep -v :$ | grep .", check=False) == "",
    )


def test_the_report_tells_layout_and_topology(cluster: Cluster) -> None:
    report = cluster.get("cmk-nodereport", "node1")
    cpus = sorted(int(cpu) for cpu in cluster.on_node(1, "ls -d /sys/devices/system/cpu/cpu[0-9]* | sed s,.*cpu,,").split())
    pools = report["spec"]["report"]["description"]["pools"]
    assert list(pools["exclusive"]["cpuLists"]) == [str(cpus[0])]
    assert list(pools["infra"]["cpuLists"]) == [",".join(str(cpu) for cpu in cpus[1:])]
    assert sorted(state(cluster).topology.cpus) == cpus
    (ready,) = (item for item in report["status"]["conditions"] if item["type"] == "Ready")
    assert ready["status"] == "True"


def test_a_host_section_wins(cluster: Cluster) -> None:
    report = cluster.get("cmk-nodereport", "node2")
    assert report["status"]["scope"] == "hosts.node2"
    assert set(report["spec"]["report"]["description"]["pools"]) == {"shared", "infra"}
    assert cluster.capacity("node2") == (None, None)


def test_the_hash_is_the_one_that_helm_computed(cluster: Cluster) -> None:
    config = json.loads(cluster.get("configmap", "-n", "cmk", "cmk-config")["data"]["config.json"])
    assert cluster.get("cmk-nodereport", "node1")["status"]["configHash"] == config["default"]["hash"]


@pytest.mark.parametrize(
    "damage",
    [
        ("label", "node", "node1", f"{LABEL}-"),
        ("taint", "node", "node1", "cmk-"),
        ("taint", "node", "node1", "cmk=other:NoExecute", "--overwrite"),
        (
            "patch",
            "node",
            "node1",
            "--subresource=status",
            "--type=json",
            "-p",
            '[{"op":"remove","path":"/status/capacity/RESOURCE"}]',
        ),
        (
            "patch",
            "node",
            "node1",
            "--subresource=status",
            "--type=merge",
            "-p",
            '{"status":{"capacity":{"cmk.intel.com/exclusive-cores":"9"}}}',
        ),
        ("delete", "cmk-nodereport", "node1"),
        ("patch", "cmk-nodereport", "node1", "--type=merge", "-p", '{"spec":{"report":{"description":null}}}'),
    ],
    ids=["label", "taint", "taint value", "resource removed", "resource raised", "report", "report content"],
)
def test_what_somebody_removes_is_put_back(cluster: Cluster, damage: tuple[str, ...]) -> None:
    cluster.kubectl(*(word.replace("RESOURCE", RESOURCE.replace("/", "~1")) for word in damage))

    def whole() -> bool:
        node = cluster.get("node", "node1")
        taints = [(taint["key"], taint.get("value"), taint["effect"]) for taint in node["spec"].get("taints") or []]
        return (
            node["metadata"]["labels"].get(LABEL) == "true"
            and ("cmk", "true", "NoSchedule") in taints
            and cluster.capacity() == ("1", "1")
            and bool(report := cluster.find("cmk-nodereport", "node1"))
            and "pools" in (report["spec"]["report"].get("description") or {})
        )

    wait_for("everything is back", whole)


def test_a_launcher_that_a_pod_damaged_is_put_back(cluster: Cluster) -> None:
    before = cluster.on_node(1, "md5sum </opt/bin/cmk")
    cluster.on_node(1, "rm /opt/bin/cmk /opt/bin/agent.sock; mkdir /opt/bin/cmk")
    wait_for("the launcher is back", lambda: cluster.on_node(1, "md5sum </opt/bin/cmk", check=False) == before)
    wait_for(
        "the socket is back", lambda: cluster.on_node(1, "CMK_SOCKET=/opt/bin/agent.sock /opt/bin/cmk describe", check=False)
    )


def test_a_kubelet_that_restarts_changes_nothing(cluster: Cluster) -> None:
    with cluster.pod("steady", "/opt/cmk/cmk", "isolate", "--pool=exclusive", "sleep", "--", "3600", cores=1) as pod:
        before = pod.object["status"]["containerStatuses"][0]["containerID"]
        cluster.script("restart-kubelet", "1")
        beats = _lease(cluster)
        wait_for("the kubelet is back", lambda: _lease(cluster) != beats)
        wait_for("the resource is there", lambda: cluster.capacity() == ("1", "1"))
        assert pod.phase == "Running"
        assert pod.object["status"]["containerStatuses"][0]["containerID"] == before
        assert len(cluster.tasks("exclusive")) == 1


def _lease(cluster: Cluster) -> str:
    return str(cluster.get("lease", "-n", "kube-node-lease", "node1")["spec"]["renewTime"])
