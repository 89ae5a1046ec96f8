"""Refused with one line, the right exit code, and the workload not started."""

import pytest

from tests.cluster.cluster import Cluster, isolate, wait_for


@pytest.mark.parametrize(
    ("command", "cores", "env", "code", "text"),
    [
        (isolate("touch", "/x"), 0, {}, 78, "cmk: pod default/refused requests no cmk.intel.com/exclusive-cores"),
        (
            isolate("touch", "/x"),
            1,
            {"CMK_NUM_CORES": "2"},
            78,
            "cmk: 2 cores of pool exclusive asked, pod default/refused is granted 1",
        ),
        (isolate("touch", "/x"), 1, {"CMK_NUM_CORES": "0"}, 78, 'cmk: CMK_NUM_CORES is "0": it must be a whole number'),
        (
            isolate("touch", "/x", pool="fast"),
            0,
            {},
            78,
            "cmk: Requested pool fast does not exist; this node has exclusive, infra",
        ),
        (isolate("touch", "/x", options=("--socket-id=5",)), 1, {}, 78, "cmk: No cpu lists in pool exclusive on socket 5"),
        (("/opt/cmk/cmk", "isolate", "touch"), 0, {}, 78, "cmk: --pool is missing; see cmk isolate --help"),
        (("/opt/cmk/cmk", "reconfigure"), 0, {}, 78, "cmk: reconfigure is not done from a container: helm upgrade"),
        (isolate("nothing-like-it"), 1, {}, 127, "cmk: cannot run nothing-like-it: No such file or directory"),
    ],
)
def test_says_why(cluster: Cluster, command: tuple[str, ...], cores: int, env: dict[str, str], code: int, text: str) -> None:
    with cluster.pod("refused", *command, cores=cores, env=env, wait=False) as pod:
        ended = pod.ended()
        assert ended["exitCode"] == code
        lines = pod.logs.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(text)
        assert ended["message"] == pod.logs
        assert not cluster.tasks("exclusive")


def test_no_free_list(cluster: Cluster) -> None:
    with cluster.pod("holder", *isolate("sleep", "3600"), cores=1) as pod:
        second = pod.exec("env", "CMK_LOCK_TIMEOUT=1", *isolate("true"))
        assert second.returncode == 75
        assert "cmk: 1 cores of pool exclusive asked, pod default/holder already holds 1 of its 1" in second.stderr


@pytest.mark.parametrize("signal", ["STOP", "removed"])
def test_agent_away(cluster: Cluster, signal: str) -> None:
    with cluster.pod("caller", "sleep", "3600") as pod:
        call = ("env", "CMK_LOCK_TIMEOUT=1", *isolate("true", pool="infra"))
        assert pod.exec(*call).returncode == 0
        (agent,) = cluster.agent_pids()
        if signal == "STOP":
            cluster.on_node(1, f"kill -STOP {agent}")
        else:
            cluster.on_node(1, f"kill -STOP {agent}; mv /opt/cmk/agent.sock /opt/cmk/away")
        try:
            away = pod.exec(*call)
        finally:
            if signal == "removed":
                cluster.on_node(1, "mv /opt/cmk/away /opt/cmk/agent.sock")
            cluster.on_node(1, f"kill -CONT {agent}")
        assert away.returncode == 75
        assert (
            "cmk: no cmk agent answered at /opt/cmk/agent.sock, /etc/cmk/agent.sock, /run/cmk/agent.sock within 1 s"
            in away.stderr
        )
        wait_for("the agent serves again", lambda: pod.exec(*call).returncode == 0)


def test_a_cpuset_without_the_core_is_opened_for_its_owner(cluster: Cluster) -> None:
    with cluster.pod("narrow", "sleep", "3600", cores=1) as pod:
        (pid,) = pod.processes()
        (infra,) = cluster.describe()["infra"]["cpuLists"]
        cluster.on_node(
            1, f"g=$(grep :cpuset: /proc/{pid}/cgroup | cut -d: -f3); echo {infra} >/sys/fs/cgroup/cpuset$g/cpuset.cpus"
        )
        assert pod.exec(*isolate("true")).returncode == 0


def test_a_forged_cgroup_does_not_make_another_pod(cluster: Cluster) -> None:
    """A workload that can write its own cgroup appends a sub-group that carries the name of a pod with a grant."""
    line = "while ! grep -q forged /proc/self/cgroup; do sleep 0.1; done; exec /opt/cmk/cmk isolate --pool=exclusive true"
    with cluster.pod("rich", "sleep", "3600", cores=1) as rich, cluster.pod("forger", "sh", "-c", line) as forger:
        pid = next(pid for pid, text in forger.processes().items() if "forged" in text)
        fake = f"forged/kubepods/pod{rich.uid}/{'ab' * 32}"
        cluster.on_node(
            1,
            f"cut -d: -f2,3 /proc/{pid}/cgroup | while IFS=: read c g; do c=${{c#name=}}; d=/sys/fs/cgroup/$c$g; [ -d $d/.. ] || continue; "
            f"mkdir -p $d/{fake}; if [ $c = cpuset ]; then for s in forged forged/kubepods forged/kubepods/pod{rich.uid} {fake}; do "
            f"cat $d/cpuset.cpus >$d/$s/cpuset.cpus; cat $d/cpuset.mems >$d/$s/cpuset.mems; done; fi; "
            f"echo {pid} >$d/{fake}/cgroup.procs; done",
        )
        assert forger.ended()["exitCode"] == 78
        assert forger.logs.startswith("cmk: pod default/forger requests no cmk.intel.com/exclusive-cores")
