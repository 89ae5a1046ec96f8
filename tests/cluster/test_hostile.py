"""A pod that does its worst for two minutes costs the node, and a good client beside it, nothing but time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.api import ApiError
from tests.cluster.cluster import PODS, RESOURCE, Cluster, Pod, isolate, manifest, wait_for
from tests.cluster.nodes import agent, condition

PROGRAM = Path(__file__).with_name("hostile.py").read_text()
SECONDS = 120
# The image of the agent has Python.
IMAGE = "localhost/cmk:dev"
GOOD = (
    "end=$(($(date +%s) + {seconds})); i=0; "
    "while [ $(date +%s) -lt $end ]; do /opt/cmk/cmk isolate --pool=exclusive true || exit $?; i=$((i + 1)); done; echo all $i"
)


@pytest.fixture(scope="module")
def open_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """Without the webhook, which would refuse some of it."""
    cluster.upgrade("--set", "webhook.enabled=false", "--wait")
    wait_for("the agents are settled", lambda: condition(cluster, "node1", "ConfigApplied").get("status") == "True")
    yield cluster
    cluster.upgrade("--wait")


def masks(cluster: Cluster, cpu: str) -> list[int]:
    """Pids of node1 whose CPUs are this one alone, and which are not kernel threads."""
    line = f"grep -lx 'Cpus_allowed_list:\t{cpu}' /proc/[0-9]*/status; true"
    pids = [int(name.split("/")[2]) for name in cluster.on_node(1, line).split()]
    return [pid for pid in pids if cluster.on_node(1, f"tr '\\0' ' ' </proc/{pid}/cmdline 2>/dev/null; true")]


def owners(cluster: Cluster) -> dict[str, list[int]]:
    """CPU list → pids of its tasks, in the exclusive pool."""
    return {name: item["tasks"] for name, item in cluster.describe()["exclusive"]["cpuLists"].items()}


def quietly_create(cluster: Cluster, pod: dict[str, object]) -> bool:
    try:
        cluster.api.request("POST", PODS, pod)
    except ApiError:
        return False
    return True


def test_two_minutes_of_everything(open_cluster: Cluster) -> None:
    cluster, seed = open_cluster, random.randrange(1 << 30)  # noqa: S311
    print("seed", seed)
    before, agent_before = owners(cluster), agent(cluster, "node1")
    assert not any(before.values())
    attack = manifest("hostile", ("python3", "-c", PROGRAM, "/opt/cmk/agent.sock", str(SECONDS), str(seed)))
    container = attack["spec"]["containers"][0]
    container["image"] = IMAGE
    greedy = manifest(
        "greedy", ("sh", "-c", "while :; do CMK_LOCK_TIMEOUT=1 /opt/cmk/cmk isolate --pool=exclusive sleep -- 3; done")
    )
    first = greedy["spec"]["containers"][0]
    greedy["spec"]["containers"] = [
        {**first, "name": f"c{number}", "resources": {"limits": {RESOURCE: "9E"}}} for number in range(2)
    ]
    try:
        with cluster.pod("good", "sh", "-c", GOOD.format(seconds=SECONDS), cores=1, wait=False) as good:
            good.wait_running()
            cluster.api.request("POST", PODS, attack)
            quietly_create(cluster, greedy)
            ended = wait_for("the good client has ended", lambda: good.phase not in ("Pending", "Running"), SECONDS + 180)
            assert ended
            assert good.logs.startswith("all "), good.logs
            assert good.ended()["exitCode"] == 0
            print("the good client:", good.logs)
            assert int(good.logs.split()[1]) > 0
        hostile = Pod(cluster, "hostile")
        assert hostile.ended()["exitCode"] == 0
        print(hostile.logs)
        assert hostile.logs.splitlines()[-1] == "done"
    finally:
        for name in ("hostile", "greedy"):
            with suppress(ApiError):
                Pod(cluster, name).delete()
    assert agent(cluster, "node1") == agent_before, "no restart"
    wait_for("the ledger is as before", lambda: owners(cluster) == before)
    (cpu,) = before
    assert masks(cluster, cpu) == [], "nobody is left on the exclusive core"
    with cluster.pod("after", *isolate("sleep", "3600"), cores=1) as after:
        (pid,) = after.processes()
        assert owners(cluster) == {cpu: [pid]}
        assert masks(cluster, cpu) == [pid]
