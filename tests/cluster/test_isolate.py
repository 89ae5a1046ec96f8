"""What a workload gets."""

import json
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import REPO, Cluster, Pod, isolate, wait_for

EXAMPLES = sorted((REPO / "examples").glob("*.yaml"))


def allowed(cluster: Cluster, pid: int, number: int = 1) -> str:
    """CPUs of a process as the node's kernel has them."""
    return cluster.on_node(number, f"grep Cpus_allowed_list /proc/{pid}/status").split()[-1]


def test_a_pod_without_any_right_gets_its_core(cluster: Cluster) -> None:
    with cluster.pod("core", *isolate("sleep", "3600"), cores=1) as pod:
        ((pid, line),) = pod.processes().items()
        assert line.strip() == "sleep 3600"
        (core,) = cluster.describe()["exclusive"]["cpuLists"]
        assert allowed(cluster, pid) == core
        assert cluster.tasks("exclusive") == [pid]

        status = pod.exec("cat", "/proc/1/status").stdout
        facts = dict(row.split(":\t", 1) for row in status.splitlines() if ":\t" in row)
        assert facts["Uid"].split()[0] == "65532"
        assert int(facts["CapEff"], 16) == 0
        assert int(facts["SigIgn"], 16) == 0
        assert int(facts["SigBlk"], 16) == 0
        assert int(facts["SigCgt"], 16) == 0

        environment = dict(row.split("=", 1) for row in pod.exec("cat", "/proc/1/environ").stdout.split("\0") if row)
        assert environment["CMK_CPUS_ASSIGNED"] == core
        assert environment["CMK_CPUS_ASSIGNED_MASK"] == f"{1 << int(core):X}"
        assert environment["CMK_CPUS_SHARED"] == ""
        (infra,) = cluster.describe()["infra"]["cpuLists"]
        assert environment["CMK_CPUS_INFRA"] == infra
        assert "LC_CTYPE" not in environment

        descriptors = pod.exec("ls", "/proc/1/fd").stdout.split()
        assert descriptors == ["0", "1", "2"]


def test_a_second_pod_waits_until_the_first_ends(cluster: Cluster) -> None:
    with (
        cluster.pod("first", *isolate("sleep", "3600"), cores=1) as first,
        cluster.pod("second", *isolate("sleep", "3600"), cores=1, wait=False) as second,
    ):
        wait_for(
            "the scheduler has no place",
            lambda: "Insufficient cmk.intel.com/exclusive-cores" in json.dumps(second.object["status"]),
        )
        assert second.phase == "Pending"
        first.delete()
        second.wait_running()
        assert len(cluster.tasks("exclusive")) == 1


@pytest.mark.parametrize(("pool", "number"), [("infra", 1), ("shared", 2), ("infra", 2)])
def test_shared_pools_need_no_request(cluster: Cluster, pool: str, number: int) -> None:
    with cluster.pod("plain", *isolate("sleep", "3600", pool=pool), node=f"node{number}") as pod:
        (pid,) = pod.processes(number)
        assert allowed(cluster, pid, number) == next(iter(cluster.describe(number)[pool]["cpuLists"]))
        assert pid in cluster.tasks(pool, number)


def test_without_affinity_the_core_is_taken_and_the_process_left_alone(cluster: Cluster) -> None:
    with cluster.pod("loose", *isolate("sleep", "3600", options=("--no-affinity",)), cores=1) as pod:
        (pid,) = pod.processes()
        assert allowed(cluster, pid) == cluster.on_node(1, "cat /sys/devices/system/cpu/online").strip()
        assert cluster.tasks("exclusive") == [pid]


def test_signals_and_exit_codes_pass_through_a_waiting_parent(cluster: Cluster) -> None:
    command = isolate("sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done", options=("--wait",))
    with cluster.pod("parent", *command, cores=1, terminationGracePeriodSeconds=600) as pod:
        wait_for("the child has started", lambda: len(pod.processes()) >= 2)
        cluster.kubectl("delete", "pod", "parent", "--wait=false")
        # gone well before its ten minutes of grace: the signal reached the child
        wait_for("the core is free", lambda: not cluster.tasks("exclusive"))


def test_killed_means_free(cluster: Cluster) -> None:
    with cluster.pod("victim", *isolate("sleep", "3600"), cores=1) as pod:
        (pid,) = pod.processes()
        cluster.on_node(1, f"kill -9 {pid}")
        wait_for("the core is free", lambda: not cluster.tasks("exclusive"), 10)
        assert pod.ended()["exitCode"] == 137


def test_an_orphan_keeps_the_core_until_it_ends(cluster: Cluster) -> None:
    line = "/opt/cmk/cmk isolate --pool=exclusive sh -- -c 'sleep 7777 & exec true'; exec sleep 8888"
    with cluster.pod("orphan", "sh", "-c", line, cores=1) as pod:

        def orphans() -> list[int]:
            return [pid for pid, text in pod.processes().items() if "7777" in text]

        (pid,) = wait_for("the parent has gone", lambda: orphans() if len(pod.processes()) == 2 else None)
        assert len(cluster.tasks("exclusive")) == 1
        cluster.on_node(1, f"kill -9 {pid}")
        wait_for("the core is free", lambda: not cluster.tasks("exclusive"), 10)


def test_the_report_follows(cluster: Cluster) -> None:
    with cluster.pod("seen", *isolate("sleep", "3600"), cores=1) as pod:
        (pid,) = pod.processes()
        wait_for(
            "the report names the task", lambda: next(iter(cluster.report()["exclusive"]["cpuLists"].values()))["tasks"] == [pid]
        )
    wait_for("the report is empty again", lambda: next(iter(cluster.report()["exclusive"]["cpuLists"].values()))["tasks"] == [])


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_the_examples_run(cluster: Cluster, path: object) -> None:
    text = path.read_text()  # type: ignore[attr-defined]
    for name, local in (("busybox:1.37", "localhost/tiny:1"), ("debian:12-slim", "localhost/workload:1"), ("NODENAME", "node1")):
        text = text.replace(name, local)
    pod = Pod(cluster, yaml.safe_load(text)["metadata"]["name"])
    cluster.kubectl("apply", "-f", "-", stdin=text)
    try:
        pod.wait_running()
        pool = "infra" if "--pool=infra" in text else "exclusive"
        number = int(pod.object["spec"]["nodeName"].removeprefix("node"))  # infra runs on any CMK node
        found = wait_for("sleep runs", lambda: [pid for pid, line in pod.processes(number).items() if line.startswith("sleep ")])
        assert allowed(cluster, found[0], number) == next(iter(cluster.describe(number)[pool]["cpuLists"]))
    finally:
        pod.delete()


def container(*, image: str, mount: str = "", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Containers and volumes of a pod as they were written for the programs before us."""
    volumes = [{"name": "v", "hostPath": {"path": mount}}] if mount else []
    mounts = [{"name": "v", "mountPath": mount}] if mount else []
    return {
        "containers": [{"name": "app", "image": image, "imagePullPolicy": "Never", "volumeMounts": mounts, **more}],
        "volumes": volumes,
    }


def test_a_pod_of_kcm_runs(cluster: Cluster) -> None:
    line = "exec /opt/bin/kcm isolate --conf-dir=/etc/kcm --pool=dataplane sh -- -c 'env; exec sleep 3600'"
    limits = {"limits": {"cmk.intel.com/exclusive-cores": "1"}}
    spec = container(image="localhost/tiny:1", mount="/opt/bin", command=["sh", "-c", line], resources=limits)
    with cluster.pod("kcm", **spec) as pod:
        (pid,) = wait_for("it has its core", lambda: cluster.tasks("exclusive"))
        (core,) = cluster.describe()["exclusive"]["cpuLists"]
        assert allowed(cluster, pid) == core
        wait_for("its environment", lambda: f"KCM_CPUS_ASSIGNED={core}" in pod.logs.splitlines())


def test_the_old_programs_path_works_in_the_image(cluster: Cluster) -> None:
    image = "localhost/cmk:dev"
    old = "/cmk/cmk.py isolate --conf-dir=/etc/cmk --pool=infra /cmk/cmk.py -- reconcile --interval=0 --publish"
    with cluster.pod(
        "old", wait=False, **container(image=image, mount="/etc/cmk", command=["/bin/bash", "-c"], args=[old])
    ) as pod:
        assert pod.ended()["exitCode"] == 0
        assert "releases a task's lists as soon as it ends" in pod.logs
    args = ["cluster-init", "--host-list=node1", "--num-exclusive-cores=3"]
    with cluster.pod("printed", wait=False, **container(image=image, args=args)) as pod:
        assert pod.ended()["exitCode"] == 0
        assert yaml.safe_load(pod.logs)["pools"]["exclusive"] == {"cores": 3}
