import pytest

from cmk.model import report
from cmk.model.config import PoolConfig
from cmk.model.isolation_config import LayerState
from cmk.model.layout import CpuList, Layout, Pool, compute
from cmk.model.ledger import Ledger
from cmk.model.reasons import Obstacle, Reason
from cmk.model.report import Condition
from cmk.model.tasks import Process, Request
from cmk.model.topology import Core, Topology
from tests.unit.machines import machine

TOPOLOGY = machine(cores=2)


def ledger_with_a_task() -> Ledger:
    pools = {"exclusive": PoolConfig(1, exclusive=True), "infra": PoolConfig("rest")}
    ledger = Ledger(compute(TOPOLOGY, pools), require_grant=False)
    ledger.allocate(Request("exclusive", Process(2000, 1)))
    return ledger


def test_describe_has_the_shape_of_cmk() -> None:
    assert report.describe(ledger_with_a_task(), "/etc/cmk") == {
        "path": "/etc/cmk",
        "pools": {
            "exclusive": {"cpuLists": {"0,2": {"cpus": "0,2", "tasks": [2000]}}, "exclusive": True, "name": "exclusive"},
            "infra": {"cpuLists": {"1,3": {"cpus": "1,3", "tasks": []}}, "exclusive": False, "name": "infra"},
        },
    }


def test_node_report_has_the_topology() -> None:
    shown = report.node_report(ledger_with_a_task(), TOPOLOGY, "/x")
    assert shown["checks"] == {"configDirectory": {"errors": [], "ok": True}}
    cpus = [{"id": 0, "isolated": False}, {"id": 2, "isolated": False}]
    assert shown["topology"]["sockets"]["0"]["cores"][0] == {"id": 0, "cpus": cpus}


def test_check_names_overlaps_and_offline_cpus() -> None:
    lists = (CpuList(frozenset({0, 9}), 0),)
    layout = Layout({"exclusive": Pool("exclusive", True, lists), "shared": Pool("shared", False, (CpuList(frozenset({0}), 0),))})
    assert report.check(Ledger(layout), TOPOLOGY) == [
        "CPU list overlap detected in exclusive:0,9 and shared:0 (in both: [0])",
        "CPU list exclusive:0,9 has CPUs that are not online: 9",
    ]


def test_check_names_lists_that_are_no_whole_cores_and_another_machine() -> None:
    half = Layout({"exclusive": Pool("exclusive", True, (CpuList(frozenset({0}), 0),)), "shared": Pool("shared", False, ())})
    machine = Topology((Core(0, 0, frozenset({0, 4})),))
    assert report.check(Ledger(half), machine, Topology((Core(0, 0, frozenset({0})),))) == [
        "2 CPUs, layout made for 1: CPUs 4 are new",
        "CPU list exclusive:0 of an exclusive pool is no whole core",
    ]


def test_counts_lists_and_tasks() -> None:
    assert report.pool_counts(ledger_with_a_task())["exclusive"] == {"lists": 1, "free": 0, "tasks": 1}


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = report.merge_conditions([], [Condition("Ready", True, Reason.SERVING)], "t1")
    same = report.merge_conditions(first, [Condition("Ready", True, Reason.APPLIED, "text")], "t2")
    other = report.merge_conditions(same, [Condition("Ready", False, Obstacle.LAYOUT_IMPOSSIBLE)], "t3")
    assert [items[0]["lastTransitionTime"] for items in (first, same, other)] == ["t1", "t1", "t3"]
    assert same[0]["reason"] == "Applied"


ON, OFF = LayerState("on"), LayerState("off")
IMPOSSIBLE, CONFLICT = LayerState("impossible", "no cgroups"), LayerState("conflict", "kubelet pins")


@pytest.mark.parametrize(
    ("layer", "isolated", "conflict"),
    [
        (ON, (True, "LayersOn", "on: pods"), (False, "None", "")),
        (OFF, (False, "LayersOff", "no layer is on: exclusive cores are shared with processes in no pool"), (False, "None", "")),
        (IMPOSSIBLE, (False, "NotPossible", "isolation.pods: no cgroups"), (False, "None", "")),
        (CONFLICT, (False, "Conflict", "isolation.pods: kubelet pins"), (True, "OtherManager", "isolation.pods: kubelet pins")),
    ],
)
def test_conditions_of_isolation(layer: LayerState, isolated: tuple[bool, str, str], conflict: tuple[bool, str, str]) -> None:
    conditions = report.isolation_conditions({"pods": layer, "irqs": OFF})
    assert [(one.type, one.status, one.reason, one.message) for one in conditions] == [
        ("Isolated", *isolated),
        ("Conflict", *conflict),
    ]


def test_a_conflict_outweighs_what_is_not_possible() -> None:
    isolated, _ = report.isolation_conditions({"pods": IMPOSSIBLE, "irqs": CONFLICT})
    assert (isolated.reason, isolated.message) == ("Conflict", "isolation.irqs: kubelet pins; isolation.pods: no cgroups")


@pytest.mark.parametrize(
    ("value", "bounded"),
    [
        (["a", "b"], ["a", "b"]),
        (["a", "b", "c", "d"], ["a", "b", "and 2 more"]),
        ([{"pid": 1}, {"pid": 2}, {"pid": 3}], [{"pid": 1}, {"pid": 2}, {"name": "and 1 more"}]),
        ({"text": "x" * 9}, {"text": "xxxxx..."}),
    ],
)
def test_what_is_too_long_is_cut_and_counted(value: object, bounded: object) -> None:
    assert report.bounded(value, 8, 2) == bounded


def test_tasks_of_shared_pools_that_are_not_listed_are_counted() -> None:
    ledger = ledger_with_a_task()
    for pid in (1, 2, 3):
        ledger.allocate(Request("infra", Process(pid, 1)))
    pools = report.describe(ledger, "/x", {Process(2, 1)})["pools"]
    assert pools["infra"]["cpuLists"] == {"1,3": {"cpus": "1,3", "tasks": [2], "tasksNotListed": 2}}
    assert pools["exclusive"]["cpuLists"] == {"0,2": {"cpus": "0,2", "tasks": [2000]}}
