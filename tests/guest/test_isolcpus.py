"""Cores 1-3 of socket 0 and 5-7 of socket 1 are isolated by the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import RESOURCE, isolate, wait_for
from tests.guest import isolation
from tests.guest.conftest import SECONDS, Guest, started

SLEEP = ("sleep", "3600")


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with started("2-7,10-15") as guest:
        yield guest


def test_packed_pools_take_isolated_cores_and_say_what_is_stranded(guest: Guest) -> None:
    report = guest.lay_out()
    assert guest.lists() == {
        "exclusive": ["2,3", "4,5", "6,7", "10,11"],
        "shared": ["12,13"],
        "infra": ["0,1", "8,9"],
    }
    assert guest.capacity() == ("4", "4")
    assert report["status"]["isolatedFrom"] == ["sysfs", "cmdline"]
    assert "isolated CPUs 14-15 are in no pool: no pool asks for them" in report["status"]["warnings"]
    event = "involvedObject.name=node1,reason=LayoutWarning"

    def told() -> bool:
        return any("14-15 are in no pool" in item["message"] for item in guest.get("events", "--field-selector", event)["items"])

    wait_for("the event", told, SECONDS)


def test_workloads_run_where_they_asked_to(guest: Guest) -> None:
    with guest.pod("first", *isolate(*SLEEP), cores=1) as first:
        (pid,) = wait_for("first", lambda: guest.tasks("exclusive"), SECONDS)
        assert guest.mask(pid) == "2-3"
        assert list(first.processes()) == [pid]
        with guest.pod("second", *isolate(*SLEEP, options=("--socket-id=1",)), cores=1):
            pids = wait_for("second", lambda: len(guest.tasks("exclusive")) == 2 and guest.tasks("exclusive"), SECONDS)
            (other,) = set(pids) - {pid}
            assert guest.mask(other) == "10-11"


def test_two_cores_make_one_task(guest: Guest) -> None:
    with guest.pod("two", *isolate("sh", "-c", "env; exec sleep 3600"), cores=2, env={"CMK_NUM_CORES": "2"}) as pod:
        pid = wait_for("two", lambda: set(guest.tasks("exclusive")), SECONDS).pop()
        assert guest.mask(pid) == "2-5"
        environment = dict(line.split("=", 1) for line in pod.logs.splitlines())
        assert environment["CMK_CPUS_ASSIGNED"] == "2,3,4,5"
        assert environment["CMK_CPUS_ASSIGNED_MASK"] == "3C"
        assert environment["CMK_CPUS_SHARED"] == "12,13"
        assert environment["CMK_CPUS_INFRA"] == "0,1,8,9"


def test_the_agent_lives_on_infra(guest: Guest) -> None:
    for pid in guest.agent_pids():
        assert guest.mask(pid) in {"0-1", "8-9"}


def test_a_container_whose_cpuset_lacks_the_cores_is_refused(guest: Guest) -> None:
    with guest.pod("narrow", "sleep", "3600", cores=1) as pod:
        (pid,) = wait_for("narrow", pod.processes, SECONDS)
        guest.on_node(1, f"echo 0-1 >/sys/fs/cgroup$(sed s/^0::// /proc/{pid}/cgroup)/cpuset.cpus")
        done = pod.exec("/opt/cmk/cmk", "isolate", "--pool=exclusive", "true")
        assert done.returncode == 78
        assert "CPUs 2-3 refused by the kernel (Invalid argument): outside the container's cpuset?" in done.stderr
        assert guest.tasks("exclusive") == []


def test_spread_pools_take_turns_over_the_sockets(guest: Guest) -> None:
    guest.lay_out("pools.exclusive.mode=spread")
    assert guest.lists() == {
        "exclusive": ["2,3", "4,5", "10,11", "12,13"],
        "shared": ["6,7"],
        "infra": ["0,1", "8,9"],
    }


def test_everything_that_remains_and_cores_beside_the_isolated_ones(guest: Guest) -> None:
    guest.lay_out("pools.exclusive.cores=-1", 'pools.exclusive-non-isolcpus={"cores":[4]}', 'pools.shared={"cores":{"1":1}}')
    assert guest.lists() == {
        "exclusive": ["2,3", "4,5", "6,7", "10,11", "12,13"],
        "exclusive-non-isolcpus": ["8,9"],
        "shared": ["14,15"],
        "infra": ["0,1"],
    }
    status = guest.get("node", "node1")["status"]["capacity"]
    assert (status[RESOURCE], status["cmk.intel.com/exclusive-non-isolcpus-cores"]) == ("5", "1")


def test_nobody_else_may_use_an_owned_core(isolating: Guest) -> None:
    isolation.nobody_else_may_use_an_owned_core(isolating)


def test_there_is_no_partition_of_isolated_cores(isolating: Guest) -> None:
    isolation.there_is_no_partition_of_isolated_cores(isolating)


def test_pods_are_as_they_were_when_the_layer_goes(isolating: Guest) -> None:
    isolation.pods_are_as_they_were_when_the_layer_goes(isolating)
