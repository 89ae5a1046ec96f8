"""Owners told from masks: a fabricated layout of three exclusive cores, and processes confined to them."""

from __future__ import annotations

import pytest

from cmk.agent.recovery import UnfitError, rebuilt
from cmk.host.confined import Confined
from cmk.model.cgroup_path import PodContainer
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.tasks import Process, Task

A, B = PodContainer("pod a", "1"), PodContainer("pod b", "2")
LAYOUT = Layout(
    {
        "exclusive": Pool("exclusive", True, tuple(CpuList(frozenset({cpu, cpu + 8}), 0) for cpu in (3, 4, 5))),
        "database": Pool("database", True, (CpuList(frozenset({6}), 0),)),
        "infra": Pool("infra", False, (CpuList(frozenset({0, 1}), 0),)),
    }
)


def confined(pid: int, *cpus: int, container: PodContainer = A, astride: frozenset[int] = frozenset()) -> Confined:
    return Confined(Process(pid, pid), container, frozenset(cpus), astride)


def task(pid: int, *lists: str, pool: str = "exclusive", container: PodContainer = A, cores: int = 1) -> Task:
    return Task(Process(pid, pid), pool, lists, container.pod, container.container, cores, 1)


def test_without_a_file_whoever_is_confined_owns_whole_lists() -> None:
    tasks = rebuilt(LAYOUT, [], [confined(7, 3), confined(8, 4, 12, 5, container=B)])
    assert tasks == [
        Task(Process(7, 7), "exclusive", ("3,11",), "pod a", "1", 1),
        Task(Process(8, 8), "exclusive", ("4,12", "5,13"), "pod b", "2", 2),
    ]
    ledger = Ledger(LAYOUT)
    assert all(ledger.restore(item) for item in tasks)


def test_processes_of_one_container_on_the_same_list_are_one_task() -> None:
    tasks = rebuilt(LAYOUT, [], [confined(7, 3, 11), confined(8, 11), confined(9, 3, 4)])
    assert [(item.process.pid, item.lists) for item in tasks] == [(7, ("3,11",)), (9, ("4,12",))]


def test_what_the_file_knows_and_masks_confirm_stays_as_it_is() -> None:
    known = [task(7, "3,11", "4,12", cores=2), task(9, "0,1", pool="infra")]
    assert rebuilt(LAYOUT, known, [confined(7, 3), confined(8, 4)]) == known


def test_an_owner_that_the_file_does_not_know_yet_is_added() -> None:
    known = task(7, "3,11")
    tasks = rebuilt(LAYOUT, [known], [confined(7, 3, 11), confined(8, 4, 12, container=B)])
    assert [(item.process.pid, item.lists) for item in tasks] == [(7, ("3,11",)), (8, ("4,12",))]


def test_an_owner_that_has_moved_since_is_where_its_mask_is() -> None:
    tasks = rebuilt(LAYOUT, [task(7, "3,11")], [confined(7, 5, 13)])
    assert [(item.lists, item.cores, item.socket) for item in tasks] == [(("5,13",), 1, 1)]


def test_a_list_that_the_file_gives_to_one_who_left_it_belongs_to_who_is_there() -> None:
    tasks = rebuilt(LAYOUT, [task(7, "3,11")], [confined(8, 3, 11, container=B)])
    assert [(item.process.pid, item.lists) for item in tasks] == [(8, ("3,11",))]


def test_an_owner_without_affinity_keeps_what_no_mask_contradicts() -> None:
    known = task(7, "3,11", "4,12")
    assert rebuilt(LAYOUT, [known], []) == [known]
    tasks = rebuilt(LAYOUT, [known], [confined(8, 4, container=B)])
    assert [(item.process.pid, item.lists) for item in tasks] == [(7, ("3,11",)), (8, ("4,12",))]


def test_processes_of_two_pods_on_one_list_are_refused() -> None:
    with pytest.raises(UnfitError, match=r"process 8 of pod pod b .* a process of pod pod a is on CPUs 3,11 too; end it"):
        rebuilt(LAYOUT, [], [confined(7, 3), confined(8, 11, container=B)])


def test_a_process_on_two_pools_is_refused() -> None:
    with pytest.raises(UnfitError, match="which are of pools database, exclusive"):
        rebuilt(LAYOUT, [], [confined(7, 3, 6)])


def test_a_process_that_is_only_astride_owns_nothing() -> None:
    assert rebuilt(LAYOUT, [], [confined(7, astride=frozenset({0, 3}))]) == []
