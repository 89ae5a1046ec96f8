"""What has to hold on cgroup v2, whatever the kernel isolates: nobody else may use an owned core, and everything goes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cmk.model import cpuset
from tests.cluster.cluster import Pod, isolate, wait_for
from tests.guest.conftest import SECONDS, Guest

BURN = ("sh", "-c", "while :; do :; done")
LIMIT = 0.05


@contextmanager
def burner(guest: Guest, name: str) -> Iterator[int]:
    """A pod that burns all it can get while it is let; its process."""
    with guest.pod(name, *BURN) as pod:
        (pid,) = wait_for(f"{name} runs", pod.processes, SECONDS)
        stop(guest, pid)
        yield pid


@contextmanager
def owner(guest: Guest) -> Iterator[tuple[Pod, int, str]]:
    """A pod whose container is on a core of its own and nowhere else, where it burns while it is let; its process and its CPUs."""
    with guest.pod("owner", *isolate(*BURN), cores=1) as pod:
        pid = wait_for(
            "the owner has its core", lambda: next(iter(set(guest.tasks("exclusive")) & set(pod.processes())), 0), SECONDS
        )
        stop(guest, pid)
        yield pod, pid, guest.mask(pid)


def stop(guest: Guest, *pids: int) -> None:
    """Let burners rest: each takes a whole CPU of the machine that emulates this one, and everything else here waits for it."""
    guest.on_node(1, f"kill -STOP {' '.join(map(str, pids))}")


def intruders(guest: Guest, pod: Pod, cpus: str) -> list[str]:
    """Groups and processes of pods that may use any of these CPUs and are not the owner's."""
    owned = cpuset.parse(cpus)
    uid = pod.uid
    sets = guest.groups("cpuset.cpus.effective")
    # kubepods, the class and the pod hold what is in them; of its containers one is the owner's
    found = [
        f"{path} {text}" for path, text in sets.items() if cpuset.parse(text) & owned and uid not in path and path.count("/") > 1
    ]
    inside = [path for path, text in sets.items() if uid in path and path.count("/") == 3 and cpuset.parse(text) & owned]
    found += inside[1:]
    line = "for p in $(find /sys/fs/cgroup/kubepods -name cgroup.procs | xargs cat); do grep -Hs Cpus_allowed_list /proc/$p/status; done"
    mine = pod.processes()
    for row in guest.on_node(1, line).splitlines():
        pid, text = int(row.split("/")[2]), row.split()[-1]
        if cpuset.parse(text) & owned and pid not in mine:
            found.append(f"process {pid} {text}")
    return found


def waiting(guest: Guest, pid: int, *others: int) -> float:
    """Share of its runnable time that a burner waits for its CPU while others burn, over some seconds, as the guest's kernel counts it."""
    guest.on_node(1, f"kill -CONT {' '.join(map(str, (pid, *others)))}")
    run, wait = (int(number) for number in guest.on_node(1, f"cat /proc/{pid}/schedstat").split()[:2])
    time.sleep(6)
    run_now, wait_now = (int(number) for number in guest.on_node(1, f"cat /proc/{pid}/schedstat").split()[:2])
    stop(guest, pid, *others)
    assert run_now > run
    return (wait_now - wait) / (run_now - run + wait_now - wait)


def nobody_else_may_use_an_owned_core(guest: Guest) -> None:
    """The layer ``pods``, by structure and by the owner's waiting."""
    with burner(guest, "before") as before, owner(guest) as (pod, pid, cpus), burner(guest, "after") as after:
        assert guest.layer("pods") == "on"
        assert intruders(guest, pod, cpus) == []
        assert waiting(guest, pid, before, after) <= LIMIT
        assert guest.mask(pid) == cpus
    wait_for("the core is closed", lambda: not guest.tasks("exclusive"), SECONDS)
    groups = {path: text for path, text in guest.groups("cpuset.cpus.effective").items() if path.count("/") > 1}
    assert not any(cpuset.parse(text) & cpuset.parse(cpus) for text in groups.values())


def isolated(guest: Guest) -> str:
    """CPUs that the kernel counts as isolated, by whatever means."""
    return guest.on_node(1, "cat /sys/fs/cgroup/cpuset.cpus.isolated").strip()


def without_partitions(guest: Guest) -> str:
    """CPUs that the kernel isolates without a partition. One that is left is waited for: a test that failed may leave its own."""
    guest.switch(partition="off")
    wait_for("no partition is left", lambda: set(guest.groups("cpuset.cpus.partition").values()) <= {"member"}, SECONDS)
    return isolated(guest)


def files(guest: Guest) -> dict[str, dict[str, str]]:
    """What a partition changes, for every group there is."""
    return {name: guest.groups(name) for name in ("cpuset.cpus.effective", "cpuset.cpus.exclusive", "cpuset.cpus.partition")}


def changed(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Threads that were there before and may run elsewhere now. Kworkers are left out: the kernel sends them from pool to pool."""
    both = {tid for tid in before.keys() & now.keys() if "kworker/" not in tid}
    return {tid: f"{before[tid]} → {now[tid]}" for tid in both if before[tid] != now[tid]}


def widened(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Threads that may run where they might not before, and on CPUs of their own as well."""
    both = {tid for tid in before.keys() & now.keys() if "kworker/" not in tid}
    sets = {tid: (cpuset.parse(before[tid]), cpuset.parse(now[tid])) for tid in both}
    return {tid: f"{before[tid]} → {now[tid]}" for tid, (had, has) in sets.items() if has - had and has & had}


def a_partition_comes_and_goes(guest: Guest) -> None:
    """The layer ``partition``, switched under a running owner, then ended with its container."""
    at_boot = without_partitions(guest)
    with burner(guest, "before") as noise, owner(guest) as (pod, pid, cpus):
        before, masks = files(guest), guest.masks()
        for _ in range(2):
            guest.switch(partition="auto")
            wait_for("the partition", lambda: cpuset.parse(isolated(guest)) >= cpuset.parse(cpus), SECONDS)
            wait_for("its report", lambda: guest.layer("partition") == "on", SECONDS)
            ours = [path for path, text in guest.groups("cpuset.cpus.partition").items() if text == "isolated"]
            assert len(ours) == 1
            assert pod.uid in ours[0]
            assert intruders(guest, pod, cpus) == []
            assert waiting(guest, pid, noise) <= LIMIT
            assert widened(masks, guest.masks()) == {}
            guest.switch(partition="off")
            wait_for("no partition", lambda: isolated(guest) == at_boot, SECONDS)
            assert files(guest) == before
            assert guest.mask(pid) == cpus
            assert changed(masks, guest.masks()) == {}
        guest.switch(partition="auto")
        wait_for("the partition again", lambda: cpuset.parse(isolated(guest)) >= cpuset.parse(cpus), SECONDS)
        wait_for("its report", lambda: guest.layer("partition") == "on", SECONDS)
        now, agents = files(guest), guest.agent_pids()
        guest.on_node(1, f"kill -9 {agents[0]}")
        wait_for("another agent", lambda: len(guest.agent_pids()) == 1 and guest.agent_pids() != agents, SECONDS)
        # It takes its time here: longer than a client waits.
        wait_for("it serves", lambda: guest.on_node(1, "/opt/cmk/cmk describe", check=False), 2 * SECONDS)
        assert pid in guest.tasks("exclusive")
        for name, groups in files(guest).items():  # the agent's own container is another one
            assert {path: text for path, text in groups.items() if path in now[name]}.items() <= now[name].items()
            assert any(pod.uid in path for path in groups)
    wait_for("it went with its container", lambda: isolated(guest) == at_boot, SECONDS)
    wait_for("nothing is left above", lambda: not any(guest.groups("cpuset.cpus.exclusive").values()), SECONDS)
    assert changed(masks, guest.masks()) == {}


def there_is_no_partition_of_isolated_cores(guest: Guest) -> None:
    """Cores that the kernel isolates already are left as they are, and it is said."""
    with owner(guest):
        at_boot, masks = isolated(guest), guest.masks()
        guest.switch(partition="auto")
        wait_for("it is said", lambda: guest.layer("partition").endswith("isolcpus isolates its CPUs already"), SECONDS)
        assert set(guest.groups("cpuset.cpus.partition").values()) == {"member"}
        assert not any(guest.groups("cpuset.cpus.exclusive").values())
        assert isolated(guest) == at_boot
        assert changed(masks, guest.masks()) == {}


def slices_beside_kubepods_are_narrowed_and_given_back(guest: Guest) -> None:
    """The layer ``host: slices``, with a cgroup as systemd would make it."""
    slice_ = "/sys/fs/cgroup/system.slice"
    (pid,) = guest.on_node(
        1, f"mkdir {slice_}; setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! >{slice_}/cgroup.procs; echo $!"
    ).split()
    try:
        before, masks = guest.on_node(1, f"cat {slice_}/cpuset.cpus.effective").strip(), guest.masks()
        guest.switch(host="slices")
        wait_for("the layer is on", lambda: guest.layer("host") == "on", SECONDS)
        exclusive = cpuset.parse(",".join(guest.lists()["exclusive"]))
        assert cpuset.parse(guest.mask(int(pid))) == cpuset.parse(before) - exclusive
        guest.switch(host="off")
        wait_for("the layer is off", lambda: guest.layer("host") == "off", SECONDS)
        assert guest.on_node(1, f"cat {slice_}/cpuset.cpus.effective").strip() == before
        assert changed(masks, guest.masks()) == {}
    finally:
        guest.on_node(1, f"kill {pid}; sleep 1; rmdir {slice_}", check=False)


def pods_are_as_they_were_when_the_layer_goes(guest: Guest) -> None:
    """Who ran before the layer ``pods`` came, or was born under it, runs nowhere else afterwards than a pod without it would."""
    guest.switch(pods="false")
    wait_for("the layer is off", lambda: guest.layer("pods") == "off", SECONDS)
    with guest.pod("before", "sleep", "3600") as first:
        wait_for("it runs", first.processes, SECONDS)
        masks = guest.masks()
        usual = {guest.mask(pid) for pid in first.processes()}
        guest.switch(pods="true")
        wait_for("the layer is on", lambda: guest.layer("pods") == "on", SECONDS)
        with guest.pod("born", "sleep", "3600") as second:
            wait_for("it runs", second.processes, SECONDS)
            guest.switch(pods="false")
            wait_for("the layer is off", lambda: guest.layer("pods") == "off", SECONDS)
            assert {guest.mask(pid) for pid in second.processes()} == usual
        assert changed(masks, guest.masks()) == {}
    guest.switch(pods="true")
    wait_for("the layer is on", lambda: guest.layer("pods") == "on", SECONDS)
