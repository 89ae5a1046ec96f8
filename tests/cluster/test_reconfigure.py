"""Pools changed by helm under running pods: what moves, what stays, what is refused, and what becomes of it when somebody is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import CHART, NAMESPACE, REPO, RESOURCE, VALUES, Cluster, Json, isolate, manifest, wait_for
from tests.cluster.nodes import agent, condition, everything_of, settle, state, status

HOOKS = ("--set", "plan.enabled=true,verify.enabled=true,verify.timeoutSeconds=60")
# node1's exclusive core and infra change places.
SWAPPED = ("--set-string", "hosts.node1.pools.exclusive.cpus=1")
NO_EXCLUSIVE = ("--set", "hosts.node1.pools.exclusive.cores=0")


def cpus(cluster: Cluster, pid: int) -> str:
    return cluster.on_node(1, f"sed -n 's/^Cpus_allowed_list:\\t//p' /proc/{pid}/status").strip()


def state_of(cluster: Cluster) -> dict[str, Any]:
    """Everything of node1 that an upgrade could touch."""
    found = everything_of(cluster, "node1")
    found.pop("report")
    tasks = json.loads(cluster.on_node(1, "cat /run/cmk/tasks.json"))["tasks"]
    masks = {task["process"]["pid"]: cpus(cluster, task["process"]["pid"]) for task in tasks}
    config = cluster.get("configmap", "-n", NAMESPACE, "cmk-config")["data"]
    return {**found, "tasks": tasks, "masks": masks, "config": config}


@pytest.fixture(scope="module", autouse=True)
def _no_hook_stays(cluster: Cluster) -> Iterator[None]:
    """What a hook that failed leaves is there until the same hook runs again."""
    yield
    cluster.upgrade(*HOOKS)


@pytest.fixture
def restored(cluster: Cluster) -> Iterator[Cluster]:
    """Afterwards the pools are as the other tests want them."""
    yield cluster
    cluster.upgrade()
    settle(cluster)
    wait_for("its core is advertised", lambda: cluster.capacity("node1") == ("1", "1"))


def test_a_pod_moves_with_its_pool_and_back_by_rollback(restored: Cluster) -> None:
    cluster = restored
    other, own = everything_of(cluster, "node2"), agent(cluster, "node1")
    with cluster.pod("mover", *isolate("sleep", "1000"), cores=1) as pod:
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        assert cpus(cluster, pid) == "0"
        cluster.upgrade(*HOOKS, *SWAPPED)
        assert (cluster.tasks("exclusive"), cpus(cluster, pid)) == ([pid], "1")
        assert [cpus(cluster, infra) for infra in cluster.agent_pids()] == ["0"]
        assert pod.object["status"]["containerStatuses"][0]["restartCount"] == 0
        entry = status(cluster)["history"][-1]
        assert (entry["moves"], entry["outcome"], entry["to"]) == (2, "applied", status(cluster)["configHash"])
        events = cluster.get("events", "--field-selector", f"involvedObject.uid={pod.uid},reason=CpusMoved")["items"]
        assert [(event["message"], event["type"]) for event in events] == [(f"process {pid} moved from CPUs 0 to 1", "Normal")]

        cluster.helm("rollback", "cmk", "-n", NAMESPACE)
        wait_for("it is back", lambda: cpus(cluster, pid) == "0")
        assert agent(cluster, "node1") == own, "no agent was replaced"
        assert everything_of(cluster, "node2") == other, "nothing of the other node has changed"


def test_a_shrink_that_a_pod_is_in_the_way_of_is_refused_and_nothing_changes(restored: Cluster) -> None:
    cluster = restored
    with cluster.pod("holder", *isolate("sleep", "1000"), cores=1):
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        wait_for(
            "its report says so", lambda: {pid} == {task.process.pid for task in state(cluster).tasks if task.pool == "exclusive"}
        )
        before = wait_for("everything is written", lambda: state_of(cluster))
        done = cluster.upgrade(*HOOKS, *NO_EXCLUSIVE, check=False)
        assert done.returncode != 0
        text = f"node node1: pool exclusive is removed, but process {pid} of pod default/holder"
        assert f"upgrade refused, nothing has changed: {text}" in done.stderr
        assert "pre-upgrade hooks failed" in cluster.helm("status", "cmk", "-n", NAMESPACE)
        assert state_of(cluster) == before
        job = cluster.kubectl("get", "pods", "-n", NAMESPACE, "-l", "job-name=cmk-plan", "-o", "json")
        (container,) = json.loads(job)["items"][0]["status"]["containerStatuses"]
        assert text in container["state"]["terminated"]["message"]


def test_a_plan_says_beforehand_what_an_upgrade_does(restored: Cluster) -> None:
    cluster = restored
    program = str(Path(sys.executable).with_name("cmk"))

    def plan(*settings: str) -> tuple[int, dict[str, Json]]:
        line = ("run", program, "plan", "--chart", str(CHART), "-f", str(VALUES), "--output=json")
        done = cluster.script(*line, *settings, check=False)
        assert done.stderr == ""
        return done.returncode, {node["node"]: node for node in json.loads(done.stdout)["nodes"]}

    with cluster.pod("planned", *isolate("sleep", "1000"), cores=1):
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        wait_for("its report says so", lambda: pid in {task.process.pid for task in state(cluster).tasks})
        code, nodes = plan()
        assert (code, {node["outcome"] for node in nodes.values()}) == (0, {"same"})
        code, nodes = plan(*SWAPPED)
        assert (code, nodes["node1"]["outcome"], nodes["node2"]["outcome"]) == (2, "changes", "same")
        moves = {move["pid"]: (move["before"], move["after"], move["pod"]) for move in nodes["node1"]["moves"]}
        assert moves[pid] == ("0", "1", "default/planned")
        code, nodes = plan(*NO_EXCLUSIVE)
        assert (code, nodes["node1"]["outcome"]) == (1, "refused")
        assert "of pod default/planned" in nodes["node1"]["text"]
        cluster.upgrade(*HOOKS, *SWAPPED)
        assert {one: cpus(cluster, one) for one in moves} == {one: after for one, (_, after, _) in moves.items()}
        assert plan(*SWAPPED)[0] == 0


@pytest.mark.parametrize("command", [("sleep", "1000"), ("false",)], ids=["between restarts", "crashing"])
def test_a_pod_that_holds_nothing_at_the_moment_counts_as_well(restored: Cluster, command: tuple[str, ...]) -> None:
    with restored.pod("idle", *command, cores=1, restartPolicy="Always", wait=False):
        wait_for("the agent knows it", lambda: "default/idle" in map(str, state(restored).pods))
        done = restored.upgrade(*HOOKS, *NO_EXCLUSIVE, check=False)
        assert done.returncode != 0
        assert "pool exclusive would have 0 cores, but 1 are held or requested: default/idle 1" in done.stderr


@pytest.mark.parametrize(
    ("program", "option"), [("helm", "--rollback-on-failure"), ("helm3", "--atomic")], ids=["Helm 4", "Helm 3"]
)
def test_a_change_that_a_node_refuses_fails_the_release_which_goes_back(restored: Cluster, program: str, option: str) -> None:
    cluster = restored
    with cluster.pod("holder", *isolate("sleep", "1000"), cores=1):
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        before = status(cluster)["configHash"]
        settings = ("--set", "verify.enabled=true,verify.timeoutSeconds=60", option)
        done = cluster.upgrade(*NO_EXCLUSIVE, *settings, program=program, check=False)
        assert done.returncode != 0
        entry = status(cluster)["history"][-1]
        assert entry["outcome"].startswith("refused: pool exclusive is removed, but process")
        wait_for("the old configuration holds", lambda: condition(cluster, "node1", "ConfigApplied").get("status") == "True")
        assert (status(cluster)["configHash"], cluster.tasks("exclusive"), cpus(cluster, pid)) == (before, [pid], "0")
        assert cluster.capacity("node1") == ("1", "1")


def test_a_refused_change_is_made_when_the_pod_ends(restored: Cluster) -> None:
    cluster = restored
    with cluster.pod("holder", *isolate("sleep", "1000"), cores=1):
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        cluster.upgrade(*NO_EXCLUSIVE)
        refused = wait_for("node1 refuses", lambda: condition(cluster, "node1", "ConfigRefused").get("status") == "True")
        assert refused
        assert f"process {pid} of pod default/holder" in condition(cluster, "node1", "ConfigRefused")["message"]
        assert cluster.capacity("node1") == ("1", "1"), "never less than bound pods request"
    wait_for("the change is made", lambda: condition(cluster, "node1", "ConfigApplied").get("status") == "True")
    assert cluster.capacity("node1") == (None, None)
    assert condition(cluster, "node1", "ConfigRefused")["status"] == "False"


def test_paused_nodes_keep_what_they_have_and_the_others_go_on(restored: Cluster) -> None:
    cluster = restored
    with cluster.pod("holder", *isolate("sleep", "1000"), cores=1):
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        cluster.upgrade(*HOOKS, *SWAPPED, "--set", "hosts.node1.paused=true")
        assert condition(cluster, "node1", "ConfigApplied")["reason"] == "Paused"
        assert "2 tasks would move, 0 stay" in condition(cluster, "node1", "ConfigApplied")["message"]
        assert cpus(cluster, pid) == "0"
        cluster.upgrade(*SWAPPED)
        wait_for("it has moved", lambda: cpus(cluster, pid) == "1")


def test_nodes_take_turns_where_that_is_asked_for(restored: Cluster) -> None:
    cluster = restored
    cluster.upgrade(*HOOKS, *SWAPPED, "--set", "rollout.maxUnavailable=1")
    lease = cluster.get("lease", "-n", NAMESPACE, "cmk-rollout-0")
    assert (lease["spec"]["leaseTransitions"], lease["spec"].get("holderIdentity", "")) == (1, "")
    assert status(cluster)["history"][-1]["outcome"] == "applied"


def test_a_pod_that_asked_for_it_is_told(restored: Cluster) -> None:
    cluster = restored
    script = "show() { cat $CMK_STATE; echo; }; trap show USR1; show; while :; do sleep 0.1; done"
    command = isolate("sh", "-c", script, options=("--on-move=notify:SIGUSR1",))
    with cluster.pod("told", *command, cores=1) as pod:
        first = wait_for("it read its file", lambda: [json.loads(line) for line in pod.logs.splitlines()])
        assert first == [{"generation": 1, "cpus": "0", "lists": ["0"]}]
        cluster.upgrade(*SWAPPED)
        told = wait_for("it is told", lambda: [json.loads(line) for line in pod.logs.splitlines()][1:])
        assert told == [{"generation": 2, "cpus": "1", "lists": ["1"]}]
        assert pod.exec("sh", "-c", "echo > $(ls /opt/cmk/state/*)").returncode != 0, "nobody but the agent writes there"
    wait_for("its file goes with it", lambda: cluster.on_node(1, "ls /opt/cmk/state") == "")


def test_a_pod_that_must_not_be_moved_stands_in_the_way(restored: Cluster) -> None:
    cluster = restored
    body = manifest("still", isolate("sleep", "1000"), 1)
    body["metadata"]["annotations"] = {"cmk.intel.com/on-move": "pinned"}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    try:
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        done = cluster.upgrade(*HOOKS, *SWAPPED, check=False)
        assert done.returncode != 0
        assert "does not move (cmk.intel.com/on-move: pinned), but would have to move from CPUs 0 to 1" in done.stderr
        assert cpus(cluster, pid) == "0"
    finally:
        cluster.kubectl("delete", "pod", "still", "--grace-period=0", "--force")
        wait_for("it is gone", lambda: cluster.tasks("exclusive") == [])


# As fast as a shell can: kill the agent once it has begun; and whether it has not ended either.
KILL = """
echo ready
end=$(($(date +%s) + 60))
while [ $(date +%s) -lt $end ]; do
  for try in $(seq 5000); do
    if [ -e /var/lib/cmk/journal.json ]; then
      kill -9 $PIDS
      [ ! -e /var/lib/cmk/journal.json ] || echo killed
      exit
    fi
  done
done
"""


def killed_in_a_change(cluster: Cluster, *settings: str) -> bool:
    """An upgrade to these settings; whether the agent was killed between the first and the last step of the change."""
    script = f"PIDS={cluster.agent_pids()[0]}\n{KILL}"
    line = [REPO / "scripts/cluster", "node", "1", "sh", "-c", script]
    with subprocess.Popen(line, env=cluster.environment, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdout
        assert killer.stdout.readline() == "ready\n"
        cluster.upgrade(*settings)
        return killer.communicate(timeout=120)[0] == "killed\n"


def test_an_agent_that_is_killed_in_a_change_leaves_it_to_its_successor(restored: Cluster) -> None:
    cluster = restored
    with cluster.pod("holder", *isolate("sleep", "1000"), cores=1):
        (pid,) = wait_for("it runs isolated", lambda: cluster.tasks("exclusive"))
        for attempt in range(5):  # a change takes some hundredths of a second: a busy machine may miss it
            core, settings = ("1", SWAPPED) if attempt % 2 == 0 else ("0", ())
            killed = killed_in_a_change(cluster, *settings)
            wait_for("the change is made", lambda core=core: cpus(cluster, pid) == core)
            wait_for("its successor serves", lambda: cluster.describe()["exclusive"] and cluster.tasks("exclusive") == [pid])
            if killed:
                break
        assert killed
        wait_for("it says so", lambda: status(cluster)["history"][-1]["outcome"] == "applied")
        assert cluster.on_node(1, "ls /var/lib/cmk").split().count("journal.json") == 0
        assert cluster.get("node", "node1")["status"]["allocatable"][RESOURCE] == "1"
