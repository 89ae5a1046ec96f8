"""Pools changed under running pods on a machine with sockets and siblings: the example of CMK's operator manual, and more of it."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.cluster import Pod, isolate, wait_for
from tests.guest.conftest import SECONDS, Guest
from tests.guest.isolation import changed, intruders, isolated, owner, without_partitions

# Four exclusive cores, one shared; the manual's CPU lists 3,11 to 7,15 are 6,7 to 14,15 where siblings are side by side.
BEFORE = {"exclusive": {"cores": "3-6"}, "shared": {"cores": [7]}, "infra": {"cores": "0-2"}}
AFTER = {"exclusive": {"cores": "3-4"}, "shared": {"cores": "6-7"}, "infra": {"cores": "0-2"}}
ONE_LEFT = {"exclusive": {"cores": [3]}, "shared": {"cores": "6-7"}, "infra": {"cores": "0-2"}}
NONE_LEFT = {"exclusive": {"cores": 0}, "shared": {"cores": "6-7"}, "infra": {"cores": "0-2"}}


def pools(wanted: dict[str, Any]) -> str:
    return f"pools={json.dumps(wanted)}"


def the_operator_manuals_example(guest: Guest) -> None:
    """Shared tasks follow their pool, an exclusive one stays while its core does, and moves sibling by sibling when it goes."""
    guest.lay_out("isolation.pods=true", pools(BEFORE))
    sleep = ("sleep", "3600")
    with guest.pod("first", *isolate(*sleep), cores=1) as first:
        (leaving,) = wait_for("the first has its core", lambda: guest.tasks("exclusive"), SECONDS)
        second = guest.pod("second", *isolate("sh", "-c", "sleep 3600 & exec sleep 3600"), cores=1)
        with second as pod, guest.pod("third", *isolate(*sleep, pool="shared")):
            wait_for("all are booked", lambda: len(guest.tasks("exclusive")) == 2 and len(guest.tasks("shared")) == 1, SECONDS)
            (owner,) = set(guest.tasks("exclusive")) - {leaving}
            (shared,) = guest.tasks("shared")
            (beside,) = wait_for("it has a child", lambda: set(pod.processes()) - {owner}, SECONDS)
            assert (guest.mask(leaving), guest.mask(owner), guest.mask(shared)) == ("6-7", "8-9", "14-15")
            guest.on_node(1, f"taskset -pc 9 {beside}")
            first.delete()
            wait_for("the first core is free", lambda: guest.tasks("exclusive") == [owner], SECONDS)
            follow(guest, pod, owner, beside, shared)
    wait_for("the pool goes with its last task", lambda: "exclusive" not in guest.lists(), SECONDS)
    history = guest.get("cmk-nodereport", "node1")["status"]["history"][-4:]
    assert [entry["outcome"].split(":")[0] for entry in history] == ["applied", "applied", "refused", "applied"]


def follow(guest: Guest, pod: Pod, owner: int, beside: int, shared: int) -> None:
    """What happens to an exclusive task, its child on the second thread of its core, and a shared task."""
    guest.change(pools(AFTER))
    assert guest.lists() == {"exclusive": ["6,7", "8,9"], "shared": ["12,13,14,15"], "infra": ["0,1,2,3,4,5"]}
    assert (guest.mask(shared), guest.mask(owner), guest.mask(beside)) == ("12-15", "8-9", "9")

    guest.change(pools(ONE_LEFT))
    assert (guest.mask(owner), guest.mask(beside)) == ("6-7", "7"), "its threads keep their place among siblings"
    assert guest.tasks("exclusive") == [owner]
    assert intruders(guest, pod, "6-7") == []
    assert guest.capacity() == ("1", "1")

    guest.change(pools(NONE_LEFT), condition="ConfigRefused")
    assert f"process {owner} of pod default/second" in guest.message("ConfigRefused")
    assert (guest.mask(owner), guest.mask(beside), guest.mask(shared)) == ("6-7", "7", "12-15")
    assert guest.capacity() == ("1", "1")


def a_partition_moves_with_its_pool(guest: Guest) -> None:
    """On a host that has all layers: the partition ends, the task moves, and is one again where it is now; nobody is beside it."""
    at_boot, masks = without_partitions(guest), guest.masks()
    with owner(guest) as (pod, pid, cpus):
        guest.switch(partition="auto")
        assert cpus == "0-1"
        wait_for("the partition", lambda: isolated(guest) == cpus, SECONDS)
        move_partition(guest, pod, pid, {"cores": "5-6"}, "10-11")
        move_partition(guest, pod, pid, {"cores": 4}, cpus)
        guest.switch(partition="off")
    wait_for("it went with its container", lambda: isolated(guest) == at_boot, SECONDS)
    assert changed(masks, guest.masks()) == {}


def move_partition(guest: Guest, pod: Pod, pid: int, exclusive: dict[str, Any], cpus: str) -> None:
    """Another pool ``exclusive``, which leads a partition's owner to these CPUs."""
    guest.change(pools({"exclusive": exclusive}))
    assert guest.mask(pid) == cpus
    wait_for("it is one there", lambda: isolated(guest) == cpus, SECONDS)
    wait_for("its report", lambda: guest.layer("partition") == "on", SECONDS)
    assert intruders(guest, pod, cpus) == []


def two_hundred_tasks_move_while_others_are_served(guest: Guest) -> None:
    """All of a shared pool's tasks in one pod, beside a pod that asks for a core again and again that the change does not concern; and the
    agent itself goes to cores that were exclusive.
    """
    before = {"exclusive": {"cores": "0-3"}, "shared": {"cores": [4]}, "infra": {"cores": "5-7"}}
    after = {"exclusive": {"cores": "3-5"}, "shared": {"cores": "6-7"}, "infra": {"cores": "0-2"}}
    guest.lay_out("isolation.pods=true", pools(before))
    many = "for i in $(seq 200); do /opt/cmk/cmk isolate --pool=shared sleep 3600 & done; wait"
    asks = "while /opt/cmk/cmk isolate --pool=exclusive true; do echo served; done"
    patient = {"CMK_LOCK_TIMEOUT": str(SECONDS)}  # two hundred launchers at once take their time on a busy machine
    asker = guest.pod("asking", "sh", "-c", asks, cores=1, env=patient)
    with guest.pod("many", "sh", "-c", many, env=patient), asker as asking:
        wait_for("all tasks are there", lambda: len(guest.tasks("shared")) == 200, SECONDS)
        tasks = guest.tasks("shared")
        wait_for("a core is given", lambda: "served" in asking.logs, SECONDS)
        guest.change(pools(after))
        served = asking.logs.count("served")
        assert set(guest.tasks("shared")) == set(tasks)
        line = f"for p in {' '.join(map(str, tasks))}; do grep -h Cpus_allowed_list /proc/$p/status; done | sort | uniq -c"
        assert guest.on_node(1, line).split() == ["200", "Cpus_allowed_list:", "12-15"]
        entry = guest.get("cmk-nodereport", "node1")["status"]["history"][-1]
        print(f"moved {entry['moves']} tasks in {entry['milliseconds']} ms; served {served} times by then")
        assert (entry["outcome"], entry["moves"]) == ("applied", 201)
        assert [guest.mask(pid) for pid in guest.agent_pids()] == ["0-5"]
        wait_for("it goes on", lambda: asking.logs.count("served") > served, SECONDS)
        assert asking.phase == "Running"


def pools_follow_cpus_that_have_gone_when_their_owner_ends(guest: Guest) -> None:
    """The second thread of a held core goes offline, and another agent starts: the owner keeps what is left of its core until it ends."""
    guest.lay_out("pools.exclusive.cores=2")
    online = "/sys/devices/system/cpu/cpu1/online"
    try:
        with guest.pod("holder", *isolate("sleep", "3600"), cores=1):
            (pid,) = wait_for("it has its core", lambda: guest.tasks("exclusive"), SECONDS)
            assert guest.mask(pid) == "0-1"
            guest.on_node(1, f"echo 0 >{online}")
            guest.restart_agent()
            told = wait_for("it is told", lambda: guest.told("MachineChanged"), SECONDS)
            assert told.startswith("15 CPUs, layout made for 16: CPUs 1 are gone or offline")
            assert (guest.tasks("exclusive"), guest.lists()["exclusive"]) == ([pid], ["0,1", "2,3"])
            checks = guest.get("cmk-nodereport", "node1")["spec"]["report"]["checks"]["configDirectory"]
            assert (checks["ok"], told.split(";")[0] in checks["errors"]) == (False, True)
        wait_for("the pools have followed", lambda: guest.lists()["exclusive"] == ["0", "2,3"], SECONDS)
        wait_for("nothing is pending", lambda: not guest.told("MachineChanged"), SECONDS)
    finally:
        guest.on_node(1, f"echo 1 >{online}")
    guest.restart_agent()
    wait_for("all CPUs are back", lambda: guest.lists()["exclusive"] == ["0,1", "2,3"], SECONDS)
