"""The same machine with nothing isolated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.cluster import CHART, isolate, wait_for
from tests.guest import isolation, reconfigure
from tests.guest.conftest import SECONDS, SETTINGS, Guest, started


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with started("") as guest:
        yield guest


def test_packed_pools_fill_one_socket_and_infra_gets_the_rest(guest: Guest) -> None:
    report = guest.lay_out("reserved.cpus=14-15")
    assert guest.lists() == {
        "exclusive": ["0,1", "2,3", "4,5", "6,7"],
        "shared": ["8,9"],
        "infra": ["10,11,12,13"],
    }
    assert report["status"]["isolatedFrom"] == []
    assert "node1: reserved.cpus=14-15 from values" in report["status"]["values"]


def test_a_socket_without_lists_is_told(guest: Guest) -> None:
    with guest.pod("far", *isolate("true", options=("--socket-id=1",)), cores=1, wait=False) as pod:
        assert pod.ended()["exitCode"] == 78
        assert "No cpu lists in pool exclusive on socket 1; it has lists on 0" in pod.logs


def test_spread_and_packed_may_be_mixed(guest: Guest) -> None:
    guest.lay_out("pools.exclusive.mode=spread,pools.exclusive.cores=3,pools.shared.cores=2,pools.shared.mode=spread")
    assert guest.lists() == {
        "exclusive": ["0,1", "2,3", "8,9"],
        "shared": ["4,5", "10,11"],
        "infra": ["6,7", "12,13,14,15"],
    }
    with guest.pod("third", *isolate("sleep", "3600", options=("--socket-id=1",)), cores=1):
        (pid,) = wait_for("third", lambda: guest.tasks("exclusive"), SECONDS)
        assert guest.mask(pid) == "8-9"


def test_cpus_that_pods_may_not_use_are_reserved_by_themselves(guest: Guest) -> None:
    cpus = "/sys/fs/cgroup/kubepods/cpuset.cpus"
    guest.leave()
    guest.on_node(1, f"echo 0-13 >{cpus}")
    try:
        report = guest.lay_out("reserved.cpus=auto,pools.exclusive.cores=-1")
        assert guest.lists() == {"exclusive": ["0,1", "2,3", "4,5", "6,7", "8,9"], "shared": ["10,11"], "infra": ["12,13"]}
        assert "node1: reserved.cpus=auto from values" in report["status"]["values"]
    finally:
        guest.on_node(1, f"echo 0-15 >{cpus}")


def test_a_layout_that_this_machine_cannot_have_says_what_would_fit(guest: Guest) -> None:
    guest.leave()
    settings = f"{SETTINGS},pools.exclusive.cores=8"
    guest.helm("upgrade", "cmk", str(CHART), "-n", "cmk", "--reset-values", "--set", settings)
    guest.kubectl("label", "node", "node1", "cmk-node=enabled")

    def told() -> str:
        found = guest.find("cmk-nodereport", "node1") or {"status": {"conditions": []}}
        return next((item["message"] for item in found["status"]["conditions"] if item["reason"] == "LayoutImpossible"), "")

    message = wait_for("it is told", told, SECONDS)
    assert message.startswith("needs 10 cores (exclusive 8 + shared 1 + infra 1), has 8; at most 7 can go to pools with a number")
    assert guest.capacity() == (None, None)


def test_pools_follow_cpus_that_have_gone_when_their_owner_ends(guest: Guest) -> None:
    reconfigure.pools_follow_cpus_that_have_gone_when_their_owner_ends(guest)


def test_the_operator_manuals_example(guest: Guest) -> None:
    reconfigure.the_operator_manuals_example(guest)


def test_two_hundred_tasks_move_while_others_are_served(guest: Guest) -> None:
    reconfigure.two_hundred_tasks_move_while_others_are_served(guest)


def test_nobody_else_may_use_an_owned_core(isolating: Guest) -> None:
    isolation.nobody_else_may_use_an_owned_core(isolating)


def test_a_partition_comes_and_goes(isolating: Guest) -> None:
    isolation.a_partition_comes_and_goes(isolating)


def test_a_partition_moves_with_its_pool(isolating: Guest) -> None:
    reconfigure.a_partition_moves_with_its_pool(isolating)


def test_slices_beside_kubepods_are_narrowed_and_given_back(isolating: Guest) -> None:
    isolation.slices_beside_kubepods_are_narrowed_and_given_back(isolating)


def test_pods_are_as_they_were_when_the_layer_goes(isolating: Guest) -> None:
    isolation.pods_are_as_they_were_when_the_layer_goes(isolating)
