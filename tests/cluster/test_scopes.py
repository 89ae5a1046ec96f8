"""Two nodes with sections of their own: what changes for one moves nothing of the other."""

from __future__ import annotations

import json

from tests.cluster.cluster import NAMESPACE, Cluster, Json, wait_for
from tests.cluster.nodes import agent, condition, everything_of, leave, prepare, status


def test_a_host_that_changes_leaves_the_other_alone(cluster: Cluster) -> None:
    before, own = everything_of(cluster, "node2"), agent(cluster, "node1")
    shard = cluster.get("configmap", "-n", NAMESPACE, "cmk-hosts-09")["metadata"]["resourceVersion"]
    cluster.upgrade("--set", "hosts.node1.taint=false,hosts.node1.pools.exclusive.cores=0,hosts.node1.pools.batch.cores=1")
    try:
        wait_for("node1 has its pools", lambda: list(cluster.report("node1")) == ["batch", "infra"])
        assert condition(cluster, "node1", "ConfigApplied")["message"] == "from hosts.node1"
        wait_for(
            "the taint is gone",
            lambda: not [t for t in cluster.get("node", "node1")["spec"].get("taints") or [] if t["key"] == "cmk"],
        )
        assert agent(cluster, "node1") == own
        assert everything_of(cluster, "node2") == before
        assert cluster.get("configmap", "-n", NAMESPACE, "cmk-hosts-09")["metadata"]["resourceVersion"] == shard
    finally:
        cluster.upgrade()
        wait_for("node1 is back", lambda: list(cluster.report("node1")) == ["exclusive", "infra"])
    assert everything_of(cluster, "node2") == before


def test_the_report_says_where_each_value_came_from(cluster: Cluster) -> None:
    values = status(cluster, "node2")["values"]
    assert "node2: shared.cores=1 from hosts.node2" in values
    assert "node2: taint=true from built-in" in values
    values = status(cluster)["values"]
    assert "node1: shared.cores=0 from values" in values


def test_what_cannot_be_is_told_by_an_event_and_touches_nothing(cluster: Cluster) -> None:
    leave(cluster, "node2")
    cluster.upgrade("--set", "hosts.node2.pools.exclusive.cores=64")
    cluster.kubectl("label", "node", "node2", "cmk-node=enabled")
    try:
        wait_for("the report says so", lambda: cluster.find("cmk-nodereport", "node2") and condition(cluster, "node2", "Ready"))
        ready = condition(cluster, "node2", "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "LayoutImpossible")
        assert ready["message"].startswith("needs 66 cores (exclusive 64 + shared 1 + infra 1), has ")

        def events() -> list[Json]:
            found = cluster.get(
                "events", "-n", "default", "--field-selector", "involvedObject.name=node2,reason=LayoutImpossible"
            )
            return list(found["items"])

        wait_for("the event", events)
        assert events()[0]["message"] == ready["message"]
        assert "LayoutImpossible" in cluster.kubectl("describe", "node", "node2")
        node = cluster.get("node", "node2")
        assert not [taint for taint in node["spec"].get("taints") or [] if taint["key"] == "cmk"]
        assert "cmk.intel.com/cmk-node" not in node["metadata"]["labels"]
    finally:
        cluster.upgrade()
    wait_for("node2 is back", lambda: condition(cluster, "node2", "Ready").get("status") == "True")


def test_an_old_cmk_keeps_the_agent_from_serving_until_it_is_gone(cluster: Cluster) -> None:
    leave(cluster, "node2")
    webhook = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "cmk-webhook-config"},
        "webhooks": [],
    }
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(webhook))
    cluster.on_node(2, "mkdir -p /etc/cmk/pools/shared/0/0 /etc/cmk/pools/infra/0/1")
    cluster.on_node(2, "cd /etc/cmk/pools; for p in shared infra; do printf 0 >$p/exclusive; : >$p/0/$(ls $p/0)/tasks; done")
    try:
        cluster.kubectl("label", "node", "node2", "cmk-node=enabled")
        wait_for("it is told", lambda: cluster.find("cmk-nodereport", "node2") and condition(cluster, "node2", "Ready"))
        ready = condition(cluster, "node2", "Ready")
        assert (ready["status"], ready["reason"]) == ("False", "OldCmkRuns")
        assert "kubectl delete mutatingwebhookconfiguration cmk-webhook-config" in ready["message"]
    finally:
        cluster.kubectl("delete", "mutatingwebhookconfiguration", "cmk-webhook-config")
    wait_for("node2 serves", lambda: condition(cluster, "node2", "Ready").get("status") == "True")
    # The pools of the directory are what the host's section would have made.
    assert status(cluster, "node2")["scope"] == "hosts.node2"
    assert cluster.on_node(2, "ls -d /etc/cmk/pools.old /etc/cmk/pools", check=False) == "/etc/cmk/pools.old\n"
    cluster.on_node(2, "rm -r /etc/cmk/pools.old")


def test_a_label_of_starlingx_makes_a_group(cluster: Cluster) -> None:
    override = {
        "label": {"key": "kind", "values": ["dpdk", "sriov"]},
        "conf": {"cmk": {"NUM_EXCLUSIVE_CORES": 0, "NUM_SHARED_CORES": 1}},
    }
    cluster.kubectl("label", "node", "node1", "kind=sriov")
    try:
        cluster.upgrade("--set-json", f"conf.overrides.cpu-manager-k8s_cmk.labels={json.dumps([override])}")
        wait_for("node1 has its pools", lambda: list(cluster.report("node1")) == ["infra", "shared"])
        assert condition(cluster, "node1", "ConfigApplied")["message"] == "from conf.overrides.cpu-manager-k8s_cmk.labels[0]"
        assert condition(cluster, "node2", "ConfigApplied")["status"] == "True"
        cluster.kubectl("label", "node", "node1", "kind=other", "--overwrite")
        wait_for("node1 is in no group", lambda: list(cluster.report("node1")) == ["exclusive", "infra"])
    finally:
        cluster.kubectl("label", "node", "node1", "kind-")
        cluster.upgrade()
        wait_for("node1 is back", lambda: list(cluster.report("node1")) == ["exclusive", "infra"])


def test_pools_and_tasks_of_a_configmap_are_taken_over(cluster: Cluster) -> None:
    leave(cluster, "node2")
    pid = int(cluster.on_node(2, "setsid taskset -c 1 sleep 4321 >/dev/null 2>&1 </dev/null & echo $!"))
    wait_for("it sleeps", lambda: cluster.on_node(2, f"cat /proc/{pid}/comm").strip() == "sleep")
    old = f"exclusive: {{0: {{'1': ['{pid}']}}}}\nshared: {{0: {{}}}}\ninfra: {{0: {{'0': ['4194303']}}}}\n"
    cluster.kubectl("create", "configmap", "cmk-config-node2", f"--from-literal=config={old}")
    cluster.upgrade("--set", "compat.adoptNamespaces={default}")
    try:
        cluster.kubectl("label", "node", "node2", "cmk-node=enabled")
        wait_for(
            "node2 serves",
            lambda: cluster.find("cmk-nodereport", "node2") and condition(cluster, "node2", "Ready").get("status") == "True",
        )
        assert status(cluster, "node2")["scope"] == "adopted from ConfigMap default/cmk-config-node2 of CMK 1.5"
        text = f"pool exclusive is removed, but process {pid} runs on its CPUs 1"
        wait_for("the refusal is reported", lambda: text in condition(cluster, "node2", "ConfigRefused").get("message", ""))
        assert cluster.tasks("exclusive", 2) == [pid]
        assert cluster.capacity("node2") == ("1", "1")
        cluster.on_node(2, f"kill {pid}")
        wait_for("its core has another pool, as configured", lambda: list(cluster.report("node2")) == ["infra", "shared"])
        assert "'4194303'" in cluster.on_node(2, "cat /var/lib/cmk/cmk-config.yaml.old")
    finally:
        cluster.on_node(2, f"kill {pid}", check=False)
        cluster.kubectl("delete", "configmap", "cmk-config-node2")
        leave(cluster, "node2")
        cluster.on_node(2, "rm -f /var/lib/cmk/cmk-config.yaml.old")
        cluster.upgrade()
        prepare(cluster, "node2")
