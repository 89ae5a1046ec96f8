"""Nothing is lost when something is killed."""

import subprocess
import threading

from tests.cluster.cluster import Cluster, Pod, isolate, wait_for

LOOP = "i=0; while [ $i -lt {rounds} ]; do /opt/cmk/cmk isolate --pool={pool} true || exit $?; i=$((i + 1)); done; echo all $i"


def kill_agent(cluster: Cluster) -> list[int]:
    before = cluster.agent_pids()
    cluster.on_node(1, f"kill -9 {' '.join(str(pid) for pid in before)}")
    return before


def agent_is_back(cluster: Cluster, before: list[int]) -> None:
    wait_for("the agent is back", lambda: (now := cluster.agent_pids()) and not set(now) & set(before))
    wait_for("it serves", lambda: cluster.on_node(1, "CMK_LOCK_TIMEOUT=2 /opt/cmk/cmk describe", check=False))


def test_a_killed_agent_finds_who_runs_and_who_ended(cluster: Cluster) -> None:
    with (
        cluster.pod("ends", *isolate("sleep", "3600"), cores=1) as ends,
        cluster.pod("stays", *isolate("sleep", "3600", pool="infra")) as stays,
        cluster.pod("waits", "sleep", "3600") as waits,
    ):
        (ending,) = ends.processes()
        (staying,) = stays.processes()
        before = kill_agent(cluster)
        cluster.on_node(1, f"kill -9 {ending}")
        answers: list[subprocess.CompletedProcess[str]] = []
        client = threading.Thread(
            target=lambda: answers.append(waits.exec("env", "CMK_LOCK_TIMEOUT=120", *isolate("true", pool="infra")))
        )
        client.start()
        agent_is_back(cluster, before)
        assert cluster.tasks("exclusive") == []
        assert staying in cluster.tasks("infra")
        client.join()
        assert answers[0].returncode == 0


def test_a_killed_agent_leaves_the_core_with_its_owner(cluster: Cluster) -> None:
    with cluster.pod("owner", *isolate("sleep", "3600"), cores=1) as owner:
        (pid,) = owner.processes()
        agent_is_back(cluster, kill_agent(cluster))
        assert cluster.tasks("exclusive") == [pid]
        assert owner.exec("env", "CMK_LOCK_TIMEOUT=1", *isolate("true")).returncode == 75


def test_a_roll_out_fails_no_client(cluster: Cluster) -> None:
    with cluster.pod("busy", "sh", "-c", LOOP.format(rounds=3000, pool="infra")) as pod:
        before = cluster.agent_pids()
        cluster.kubectl("-n", "cmk", "rollout", "restart", "daemonset/cmk-node")
        cluster.kubectl("-n", "cmk", "rollout", "status", "daemonset/cmk-node", "--timeout=120s")
        assert not set(before) & set(cluster.agent_pids())
        assert pod.ended()["exitCode"] == 0
        assert pod.logs == "all 3000\n"


def test_three_thousand_rounds_leave_the_ledger_as_it_was(cluster: Cluster) -> None:
    before = cluster.describe()
    with cluster.pod("rounds", "sh", "-c", LOOP.format(rounds=3000, pool="exclusive"), cores=1) as pod:
        wait_for("all rounds are done", lambda: pod.phase != "Running", 240)
        assert pod.logs == "all 3000\n"
    assert cluster.describe() == before


def test_a_container_that_restarts_always_gets_its_core(cluster: Cluster) -> None:
    def restarts(pod: Pod) -> int:
        return int(pod.object["status"]["containerStatuses"][0]["restartCount"])

    with cluster.pod(
        "again", *isolate("sh", "-c", "echo got $CMK_CPUS_ASSIGNED; exit 1"), cores=1, restartPolicy="Always", wait=False
    ) as pod:
        wait_for("it restarted three times", lambda: pod.object["status"].get("containerStatuses") and restarts(pod) >= 3)
        status = pod.object["status"]["containerStatuses"][0]
        ended = status["lastState"].get("terminated") or status["state"]["terminated"]
        assert ended["exitCode"] == 1
        assert pod.logs.startswith("got ")


def test_without_api_server_known_pods_are_served(cluster: Cluster) -> None:
    with cluster.pod("known", "sleep", "3600", cores=1) as pod:
        wait_for("the agent knows it", lambda: pod.exec(*isolate("true")).returncode == 0)
        (pid,) = pod.processes()
        enter = f"nsenter -t {pid} -m -p -C -- env CMK_LOCK_TIMEOUT=5 {' '.join(isolate('true'))}"
        # into the pod's cgroup too, for that is what the agent goes by
        line = (
            f"cut -d: -f2,3 /proc/{pid}/cgroup | while IFS=: read c g; do c=${{c#name=}}; [ ! -d /sys/fs/cgroup/$c ] || "
            f"echo $$ >/sys/fs/cgroup/$c$g/cgroup.procs; done; {enter}"
        )
        before = cluster.agent_pids()
        cluster.script("freeze-api")
        try:
            cluster.on_node(1, line)
            # and by an agent that starts now, from what the one before wrote down
            kill_agent(cluster)
            wait_for("the agent is back", lambda: (now := cluster.agent_pids()) and not set(now) & set(before))
            wait_for("it serves", lambda: cluster.on_node(1, "CMK_LOCK_TIMEOUT=2 /opt/cmk/cmk describe", check=False))
            cluster.on_node(1, line)
        finally:
            cluster.script("thaw-api")
        wait_for(
            "the API server is back", lambda: cluster.script("kubectl", "get", "--raw", "/readyz", check=False).returncode == 0
        )
