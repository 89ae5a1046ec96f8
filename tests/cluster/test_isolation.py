"""An exclusive core is its owner's alone: while pods come and go, while the agent is away, and everything goes back afterwards."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import NAMESPACE, TINY, Cluster, Json, isolate, manifest, wait_for
from tests.cluster.layers import CPUSETS, configure, cpusets, everything, layer
from tests.cluster.nodes import status

USAGE = "/sys/fs/cgroup/cpuacct/kubepods"
BURN = ("sh", "-c", "while :; do :; done")
CORE = "0"


def of_pod(sets: dict[str, str], uid: str) -> set[str]:
    return {cpus for path, cpus in sets.items() if uid in path}


def foreign_time(cluster: Cluster, uid: str) -> int:
    """Nanoseconds that all pods but one have had on the core, those that are gone among them.

    That one is stopped while its counter and the sum are read: what it burns between the two would count as others' or hide theirs.
    """
    line = f"""
        pod=$(find {USAGE} -maxdepth 2 -name '*{uid}*') pids=$(cat $(find $pod -name cgroup.procs))
        kill -STOP $pids
        trap "kill -CONT $(echo $pids)" EXIT
        for pid in $pids; do while [ -d /proc/$pid ] && ! grep -q '^State:.T' /proc/$pid/status; do sleep 0.01; done; done
        cut -d' ' -f1 {USAGE}/cpuacct.usage_percpu $pod/cpuacct.usage_percpu"""
    everything, owner = (int(number) for number in cluster.on_node(1, line).split())
    return everything - owner


@pytest.fixture
def owner(cluster: Cluster) -> Iterator[str]:
    """A best-effort pod that owns node1's exclusive core and burns it; its uid."""
    with cluster.pod("owner", *isolate(*BURN), cores=1) as pod:
        # of this pod: the one of the test before may not have ended yet
        wait_for("the owner has its core", lambda: set(cluster.tasks("exclusive")) & set(pod.processes()))
        yield pod.uid


def noise(name: str, *, seconds: int, kind: str) -> Json:
    """A pod that burns all it can get and ends; best-effort or burstable."""
    found = manifest(name, ("sh", "-c", f"sleep {seconds} & while kill -0 $! 2>/dev/null; do :; done"))
    if kind == "burstable":
        found["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1m"}}
    return found


def apply(cluster: Cluster, pods: list[Json]) -> None:
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))


def churn(
    cluster: Cluster, count: int, *, kinds: tuple[str, ...] = ("burstable", "besteffort"), batch: int = 20, besides: int = 1
) -> None:
    """Noise pods in batches: created, run, deleted, until there are none but those ``besides``."""
    for start in range(0, count, batch):
        names = [f"noise{number}" for number in range(start, min(start + batch, count))]
        apply(cluster, [noise(name, seconds=2, kind=kinds[number % len(kinds)]) for number, name in enumerate(names)])
        wait_for(
            "all of the batch have started",
            lambda names=names: all(
                item["status"]["phase"] in {"Running", "Succeeded"}
                for item in cluster.get("pods")["items"]
                if item["metadata"]["name"] in names
            ),
        )
        cluster.kubectl("delete", "pod", *names, "--grace-period=0", "--force", "--wait=false")
    wait_for("the noise is gone", lambda: len(cluster.get("pods")["items"]) == besides)


def test_only_the_owner_may_use_the_core_and_others_are_born_off_it(cluster: Cluster, owner: str) -> None:
    with cluster.pod("bystander", *BURN) as bystander:
        before = foreign_time(cluster, owner)
        sets = cpusets(cluster)
        assert of_pod(sets, bystander.uid) == {"1"}
        mine = {path: cpus for path, cpus in sets.items() if owner in path}
        assert sorted(mine.values()) == ["0-1", "0-1", "1"], "the pod, its container, its sandbox"
        assert sets["./burstable"] == "1"
        time.sleep(2)
        assert foreign_time(cluster, owner) == before
    assert layer(cluster, "pods") == "on"


def test_sixty_noisy_pods_get_nothing_of_the_core(cluster: Cluster, owner: str) -> None:
    before = foreign_time(cluster, owner)
    churn(cluster, 60)
    assert foreign_time(cluster, owner) == before


def test_a_restarted_and_a_resized_pod_stay_off_the_core(cluster: Cluster, owner: str) -> None:
    before = foreign_time(cluster, owner)
    with cluster.pod(
        "restarts", "sh", "-c", "sleep 1 & while kill -0 $! 2>/dev/null; do :; done; exit 1", restartPolicy="Always"
    ):
        sized = manifest("resized", BURN)
        sized["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "10m"}, "limits": {"cpu": "500m"}}
        apply(cluster, [sized])
        wait_for("it runs", lambda: cluster.get("pod", "resized")["status"]["phase"] == "Running")
        patch = {"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "20m"}, "limits": {"cpu": "700m"}}}]}}
        cluster.kubectl("patch", "pod", "resized", "--subresource=resize", "--patch", json.dumps(patch))
        wait_for("two restarts", lambda: cluster.get("pod", "restarts")["status"]["containerStatuses"][0]["restartCount"] >= 2)
        uid = cluster.get("pod", "resized")["metadata"]["uid"]
        assert of_pod(cpusets(cluster), uid) == {"1"}
        cluster.kubectl("delete", "pod", "resized", "--grace-period=0", "--force")
    assert foreign_time(cluster, owner) == before


def test_a_group_that_is_found_wide_again_is_repaired_and_counted(cluster: Cluster, owner: str) -> None:
    with cluster.pod("widened", *BURN) as pod:
        count = status(cluster)["isolation"]["driftsRepaired"]
        directory = cluster.on_node(1, f"find {CPUSETS} -maxdepth 2 -name '*{pod.uid}'").strip()
        cluster.on_node(1, f"echo 0-1 >{directory}/cpuset.cpus")
        wait_for("it is narrow again", lambda: of_pod(cpusets(cluster), pod.uid) == {"1"}, 5)
        wait_for("it is counted", lambda: status(cluster)["isolation"]["driftsRepaired"] > count, 10)
    assert of_pod(cpusets(cluster), owner) == {"0-1", "1"}


def test_a_process_beside_the_task_is_named(cluster: Cluster, owner: str) -> None:
    assert status(cluster)["isolation"]["besideTasks"] == []
    cluster.script("kubectl", "exec", "owner", "--", "sh", "-c", "sleep 60 </dev/null >/dev/null 2>&1 &")
    found = wait_for("it is named", lambda: status(cluster)["isolation"]["besideTasks"])
    assert [(item["name"], item["pod"], item["cpus"]) for item in found] == [("sleep", owner, CORE)]


def test_while_the_agent_is_away_cores_stay_closed_and_nothing_breaks(cluster: Cluster, owner: str) -> None:
    cluster.kubectl("-n", NAMESPACE, "patch", "daemonset", "cmk-node", "--patch", json.dumps(absent("node1")))
    try:
        wait_for("no agent", lambda: not cluster.agent_pids(1))
        before = foreign_time(cluster, owner)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            churn(cluster, 8, kinds=("burstable",), batch=8)
        assert foreign_time(cluster, owner) == before
        apply(cluster, [noise("late", seconds=3600, kind="besteffort")])  # of the owner's own class, which has to have the core
        wait_for("it runs", lambda: cluster.get("pod", "late")["status"]["phase"] == "Running")
    finally:
        cluster.kubectl("-n", NAMESPACE, "patch", "daemonset", "cmk-node", "--type=json", "--patch", json.dumps(PRESENT))
    wait_for("the agent is back", lambda: len(cluster.agent_pids(1)) == 1)
    wait_for("it serves", lambda: cluster.tasks("exclusive"))
    late = cluster.get("pod", "late")["metadata"]["uid"]
    assert of_pod(cpusets(cluster), late) == {"1"}
    wait_for("what came meanwhile is counted", lambda: status(cluster)["isolation"]["driftsRepaired"] > 0, 10)
    cluster.kubectl("delete", "pod", "late", "--grace-period=0", "--force")


def absent(node: str) -> Json:
    """Keeps the DaemonSet off a node without touching the node."""
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "NotIn", "values": [node]}]}
    wanted = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {"spec": {"template": {"spec": {"affinity": {"nodeAffinity": wanted}}}}}


PRESENT = [
    {
        "op": "replace",
        "path": "/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
        "value": [{"matchExpressions": [{"key": "cmk-node", "operator": "In", "values": ["enabled"]}]}],
    }
]


def test_an_agent_that_is_killed_finds_everything_as_it_should_be(cluster: Cluster, owner: str) -> None:
    before, sets = foreign_time(cluster, owner), cpusets(cluster)
    for pid in cluster.agent_pids(1):
        cluster.on_node(1, f"kill -9 {pid}")
    apply(cluster, [noise("meanwhile", seconds=3600, kind="burstable")])
    try:
        wait_for("the agent is back", lambda: len(cluster.agent_pids(1)) == 1)
        wait_for("it serves", lambda: cluster.tasks("exclusive"))
        time.sleep(1)
        kept = {path: cpus for path, cpus in cpusets(cluster).items() if path in sets}
        assert kept.items() <= sets.items()
    finally:
        cluster.kubectl("delete", "pod", "meanwhile", "--grace-period=0", "--force")
    assert foreign_time(cluster, owner) == before


def test_a_kubelet_that_restarts_leaves_cores_closed(cluster: Cluster, owner: str) -> None:
    with cluster.pod("bystander", *BURN):
        before, sets = foreign_time(cluster, owner), cpusets(cluster)
        restart_kubelet(cluster, 1)
        churn(cluster, 8, batch=8, besides=2)
        now = cpusets(cluster)
        assert {path: now[path] for path in sets if path in now} == sets
        assert foreign_time(cluster, owner) == before


def restart_kubelet(cluster: Cluster, number: int) -> None:
    cluster.script("restart-kubelet", str(number))
    lease = ("lease", "-n", "kube-node-lease", f"node{number}")
    beats = cluster.get(*lease)["spec"]["renewTime"]
    wait_for("the kubelet is back", lambda: cluster.get(*lease)["spec"]["renewTime"] != beats)


@pytest.mark.usefixtures("interrupts")
def test_each_layer_goes_on_and_off_and_leaves_everything_as_it_was(cluster: Cluster) -> None:
    configure(cluster, pods=False)
    assert layer(cluster, "pods") == "off"
    untouched = {name: value for name, value in everything(cluster).items() if "pod" not in name}
    assert set(cpusets(cluster).values()) == {"0-1"}
    for switched in ({"pods": True}, {"pods": False, "host": "affinity"}, {"pods": False, "irqs": "on"}):
        configure(cluster, **switched)
        name = next(key for key, value in switched.items() if value)
        wait_for(f"{name} is on", lambda name=name: layer(cluster, name) == "on")
        now = everything(cluster)
        assert any(now[key] != value for key, value in untouched.items() if key in now), switched
        configure(cluster, pods=False)
        wait_for(f"{name} is off", lambda name=name: layer(cluster, name) == "off")
        now = everything(cluster)
        assert {key: now[key] for key in untouched if key in now} == {key: untouched[key] for key in untouched if key in now}
    assert cluster.on_node(1, "cat /var/lib/cmk/isolation.json").count('"threads":[]') == 1
    configure(cluster, pods=True)


def test_containers_beside_the_owners_are_let_in_and_out_again(cluster: Cluster, owner: str) -> None:
    configure(cluster, ownPod=False)
    wait_for("the sandbox may use the core", lambda: of_pod(cpusets(cluster), owner) == {"0-1"}, 10)
    assert layer(cluster, "ownPod") == "off"
    configure(cluster, ownPod=True)
    wait_for("it may not", lambda: of_pod(cpusets(cluster), owner) == {"0-1", "1"}, 10)


def test_a_lent_core_is_cleared_for_its_owner_and_lent_again(cluster: Cluster) -> None:
    configure(cluster, idle="lend")
    with cluster.pod("borrower", *BURN) as borrower:
        wait_for("it may use the core", lambda: of_pod(cpusets(cluster), borrower.uid) == {"0-1"})
        with cluster.pod("owner", *isolate(*BURN), cores=1) as owner:
            wait_for("the owner has its core", lambda: cluster.tasks("exclusive"))
            before = foreign_time(cluster, owner.uid)
            assert of_pod(cpusets(cluster), borrower.uid) == {"1"}
            time.sleep(1)
            assert foreign_time(cluster, owner.uid) == before
        wait_for("it is lent again", lambda: of_pod(cpusets(cluster), borrower.uid) == {"0-1"}, 10)
    configure(cluster, pods=True)


def test_another_manager_of_cpus_is_a_conflict_and_leaving_ends_it(cluster: Cluster) -> None:
    image = "localhost/nri-resource-policy-balloons:v0.14.0"
    cluster.on_node(1, f"ctr -n k8s.io images tag --force {TINY} {image}")
    other = manifest("balloons", ("sleep", "3600"))
    other["spec"]["containers"][0]["image"] = image
    other["spec"]["volumes"].append({"name": "nri", "hostPath": {"path": "/run"}})
    apply(cluster, [other])
    try:
        found = wait_for("the conflict is told", lambda: conflict(cluster))
        assert "nri-plugins' balloons policy (pod default/balloons)" in found
        assert layer(cluster, "pods") == "conflict"
        assert set(cpusets(cluster).values()) == {"0-1"}
    finally:
        cluster.kubectl("delete", "pod", "balloons", "--grace-period=0", "--force")
        cluster.on_node(1, f"ctr -n k8s.io images rm {image}")
    wait_for("it is over", lambda: not conflict(cluster))
    assert layer(cluster, "pods") == "on"


def test_kubelets_cpu_manager_is_a_conflict_and_its_end_ends_it(cluster: Cluster) -> None:
    file = Path(os.environ["CMK_CACHE"]) / "clusters" / cluster.name / "node2/kubelet/config.yaml"
    before = file.read_text()
    assert layer(cluster, "pods", "node2") == "on"
    try:
        file.write_text(f"{before}cpuManagerPolicy: static\nreservedSystemCPUs: '0'\n")
        cluster.on_node(2, "rm /var/lib/kubelet/cpu_manager_state")
        restart_kubelet(cluster, 2)
        found = wait_for("the conflict is told", lambda: conflict(cluster, "node2"))
        assert "kubelet's CPU manager hands out CPUs of this node: set cpuManagerPolicy: none" in found
        assert layer(cluster, "pods", "node2") == "conflict"
    finally:
        file.write_text(before)
        cluster.on_node(2, "rm /var/lib/kubelet/cpu_manager_state")
        restart_kubelet(cluster, 2)
    wait_for("it is over", lambda: not conflict(cluster, "node2"))


def conflict(cluster: Cluster, node: str = "node1") -> str:
    for item in status(cluster, node)["conditions"]:
        if item["type"] == "Conflict" and item["status"] == "True":
            return str(item["message"])
    return ""
