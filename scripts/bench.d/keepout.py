"""bench keepout: the cost of keeping pods off cores: allocation beside 50 pods on a real node, CPU time of the agent while pods change."""

from __future__ import annotations

import os
import sys
import time

from isolation import apply, configure, pod
from tests.cluster.cluster import REPO, Cluster, Pod, manifest, wait_for
from timing import row

PODS = 50
SECONDS = 20
PER_SECOND = 10
WAYS = {
    "no layer": {},
    "pods, cores reserved": {"pods": "true"},
    "pods, idle cores lent": {"pods": "true", "idle": "lend"},
}


def allocations(cluster: Cluster, rounds: int) -> list[float]:
    """Microseconds of each allocation in a new owner's pod."""
    apply(cluster, [pod("owner", ("python3", "-u", "/bench/allocate.py", str(rounds)), cores=1)])
    owner = Pod(cluster, "owner")
    try:
        if owner.ended()["exitCode"]:
            raise SystemExit(f"bench: {owner.logs}")
        return [float(number) for number in owner.logs.strip("[]\n").split(",")]
    finally:
        owner.delete()


def ticks(cluster: Cluster) -> int:
    """CPU time of the agent so far."""
    (pid,) = cluster.agent_pids(1)
    stat = cluster.on_node(1, f"cat /proc/{pid}/stat")
    return sum(int(word) for word in stat[stat.rindex(")") + 2 :].split()[11:13])


def churn(cluster: Cluster) -> float:
    """Per cent of a CPU that the agent uses while cgroups of pods come and go: a pod, its sandbox and its container each time."""
    top = "/sys/fs/cgroup/cpuset/kubepods/besteffort"
    line = f"""
        number=0
        while [ $number -lt {SECONDS * PER_SECOND} ]; do
          number=$((number + 1))
          pod={top}/pod$(printf %08x $number)-1111-2222-3333-444444444444
          for group in $pod $pod/$(printf %064x 1) $pod/$(printf %064x 2); do mkdir $group; done
          sleep 0.{1000 // PER_SECOND:03d}
          rmdir $pod/0* $pod || true # kubelet takes away what is no pod's too
        done"""
    before, begin = ticks(cluster), time.monotonic()
    cluster.on_node(1, line)
    took = time.monotonic() - begin
    return (ticks(cluster) - before) / os.sysconf("SC_CLK_TCK") / took * 100


def main(rounds: int) -> None:
    """Print the tables."""
    cluster = Cluster("cmk-bench")
    cluster.script("up", "1")
    try:
        programs = (f"--from-file={REPO}/scripts/bench.d/allocate.py",)
        cluster.kubectl("create", "configmap", "bench", *programs)
        apply(cluster, [manifest(f"other{number}", ("sleep", "3600")) for number in range(PODS)])
        print(f"{'allocation beside ' + str(PODS) + ' pods, us':32}{'min':>10}{'p50':>10}{'p99':>10}")
        for name, layers in WAYS.items():
            configure(cluster, layers)
            print(row(name, allocations(cluster, rounds), {}))
        configure(cluster, WAYS["pods, cores reserved"])
        print(f"agent, {PER_SECOND} pods per second come and go: {churn(cluster):.1f} % of a CPU")
        wait_for("pods are as they were", lambda: len(cluster.get("pods")["items"]) == PODS)
    finally:
        cluster.script("down")


main(int(sys.argv[1]))
