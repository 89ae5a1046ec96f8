from __future__ import annotations

import os

import pytest

from cmk.isolation.cgroups import FILE
from cmk.model import cpuset
from cmk.model.isolation_config import ALL_OFF, Isolation
from tests.unit.isolation.cgrouptree import set_text, snapshot
from tests.unit.isolation.hosts import ALL, CORE, GROUPS, OTHER, OWNER, SIDECAR, TASK, Host, in_loop


@pytest.mark.parametrize(
    ("settings", "idle", "owned"),
    [
        (Isolation(), set(), {OWNER}),
        (Isolation(own_pod=False), set(), {OWNER, SIDECAR}),
        (Isolation(idle="lend"), {OWNER, SIDECAR, OTHER}, {OWNER}),
    ],
    ids=["built in", "open to the owner's pod", "lent"],
)
def test_containers_that_may_use_an_exclusive_core(host: Host, settings: Isolation, idle: set[str], owned: set[str]) -> None:
    def scenario() -> None:
        layer = host.pod_layer(settings)
        layer.apply("")
        assert host.with_core() == idle
        assert host.ledger.restore(TASK)
        layer.enforce()
        assert host.with_core() == owned
        host.ledger.release(TASK.process)
        layer.enforce()
        assert host.with_core() == idle
        layer.stop()

    in_loop(scenario)


def test_cpusets_of_another_program_are_a_conflict_and_left_alone(host: Host) -> None:
    set_text(host.directory(OTHER), FILE, "1")
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layer = host.pod_layer(Isolation())
        layer.apply("")
        state = layer.states("")["pods"]
        assert (state.state, OTHER in state.reason) == ("conflict", True)
        layer.stop()

    in_loop(scenario)
    assert snapshot(host.cgroups) == before


def test_a_realtime_budget_is_a_conflict(host: Host) -> None:
    budget = host.cgroups / "cpu/kubepods" / OTHER
    budget.mkdir(parents=True)
    (budget / "cpu.rt_runtime_us").write_text("1000\n")
    before = snapshot(host.cgroups)

    def scenario() -> None:
        layer = host.pod_layer(Isolation())
        layer.apply("")
        state = layer.states("")["pods"]
        if host.strict:
            assert (state.state, str(budget) in state.reason) == ("conflict", True)
            assert snapshot(host.cgroups) == before
        else:  # cgroup v2 has no such budgets
            assert state.state == "on"
        layer.stop()

    in_loop(scenario)


def test_another_manager_is_a_conflict_while_it_is_there(host: Host) -> None:
    def scenario() -> None:
        layer = host.pod_layer(Isolation())
        layer.apply("")
        layer.apply("balloons")
        state = layer.states("")["pods"]
        assert (state.state, state.reason) == ("conflict", "balloons")
        assert {host.may_use(path) for path in GROUPS} == {ALL}
        layer.apply("")
        assert layer.states("")["pods"].state == "on"
        layer.stop()

    in_loop(scenario)


def test_cpusets_that_cannot_be_restored_any_more_are_reported(host: Host) -> None:
    def scenario() -> None:
        layer = host.pod_layer(Isolation())
        layer.apply("")
        layer.stop()
        layer = host.pod_layer(ALL_OFF, cgroups=False)
        layer.apply("")
        assert "still narrowed" in layer.states("")["pods"].reason

    in_loop(scenario)


def test_what_is_in_doubt_is_the_reason_of_a_layer_without_a_problem(host: Host) -> None:
    def scenario() -> None:
        layer = host.pod_layer(Isolation())
        layer.apply("")
        state = layer.states("kubelet does not answer")["pods"]
        assert (state.state, state.reason) == ("on", "kubelet does not answer")
        layer.stop()

    in_loop(scenario)


def test_a_process_in_the_owners_container_that_may_run_elsewhere_is_named(host: Host) -> None:
    set_text(host.directory(OWNER), "cgroup.procs", str(os.getpid()))

    def scenario() -> None:
        assert host.ledger.restore(TASK)
        layer = host.pod_layer(Isolation())
        assert layer.beside_tasks() == []
        layer.apply("")
        (process,) = layer.beside_tasks()
        assert process == {
            "pid": os.getpid(),
            "name": host.procfs.name(os.getpid()),
            "pod": TASK.pod,
            "cpus": cpuset.kernel_list(CORE.cpus),
        }
        layer.stop()

    in_loop(scenario)
