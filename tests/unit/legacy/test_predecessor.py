"""Intel CMK before us: in the way while it runs, taken over once it is gone."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from cmk.legacy.predecessor import Predecessor, Traces
from cmk.legacy.running import removal_of_daemons
from cmk.model.reasons import Obstacle
from tests.unit.direct.test_takeover import TREES, tree
from tests.unit.kube.apiserver import serving
from tests.unit.machines import machine

NOT_FOUND = (404, {"message": "not found"})
NOTHING = [NOT_FOUND] * 3


def pod(
    args: str,
    *,
    name: str = "p",
    owner: dict[str, Any] | None = None,
    phase: str = "Running",
    paths: tuple[str, ...] = ("/proc",),
) -> dict[str, Any]:
    owners = [{"controller": True, **owner}] if owner else []
    return {
        "metadata": {"namespace": "ns", "name": name, "ownerReferences": owners},
        "spec": {
            "containers": [{"name": "c", "command": ["/bin/bash", "-c"], "args": [args]}],
            "volumes": [{"name": "v", "hostPath": {"path": path}} for path in paths],
        },
        "status": {"phase": phase},
    }


RECONCILE = "/cmk/cmk.py isolate --pool=infra /cmk/cmk.py -- reconcile --interval=5 --publish"


@pytest.mark.parametrize(
    ("found", "commands"),
    [
        (
            pod(RECONCILE, owner={"kind": "DaemonSet", "name": "cmk-reconcile-ds-n"}),
            ["kubectl -n ns delete daemonset cmk-reconcile-ds-n"],
        ),
        (pod("/cmk/cmk.py node-report --interval=5", name="old"), ["kubectl -n ns delete pod old"]),
        (pod("/opt/bin/kcm reconcile --conf-dir=/etc/kcm", name="older"), ["kubectl -n ns delete pod older"]),
        (pod(RECONCILE, phase="Succeeded"), []),
        (pod("/opt/bin/cmk isolate --pool=exclusive reconciler"), []),
        (pod("/opt/bin/cmk isolate --pool=exclusive app -- reconcile"), []),
        (pod("/opt/bin/cmk isolate --pool=exclusive testpmd"), []),
        (pod("reconcile"), []),
        (pod("# cmk reconcile"), []),
        (pod("date\ntrue # cmk reconcile\n"), []),
        (pod(f"# the loop\n{RECONCILE}"), ["kubectl -n ns delete pod p"]),
        (pod(RECONCILE, paths=("/proc", "/etc/cmk")), ["kubectl -n ns delete pod p"]),
    ],
)
def test_its_loops_are_known_by_what_they_run(found: dict[str, Any], commands: list[str]) -> None:
    assert removal_of_daemons([found, found], ()) == commands


@pytest.mark.parametrize("paths", [(), ("/opt/bin", "/etc/cmk")])
def test_a_pod_without_host_paths_and_privileges_is_no_daemon_of_it(paths: tuple[str, ...]) -> None:
    assert removal_of_daemons([pod(RECONCILE, paths=paths)], ("/opt/bin", "/etc/cmk")) == []


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pod --all -A ; curl x | sh ;", "ds"),
        ("DaemonSet\n", "ds"),
        ("", "ds"),
        ("Node", "n"),
        ("Namespace", "kube-system"),
        ("DaemonSet", "ds ; curl x | sh"),
        ("DaemonSet", "$(sh)"),
        ("DaemonSet", "--all"),
        ("DaemonSet", "ds\n"),
        ("DaemonSet", ""),
        ("DaemonSet", "d" * 254),
    ],
)
def test_text_that_a_pod_chose_is_in_no_command(kind: str, name: str) -> None:
    commands = removal_of_daemons([pod(RECONCILE, owner={"kind": kind, "name": name})], ())
    assert commands == ["kubectl -n ns delete pod p"]


def traces(tmp_path: Path, *namespaces: str) -> Traces:
    (tmp_path / "state").mkdir()
    return Traces("n", (tmp_path / "opt", tmp_path / "etc"), namespaces, tmp_path / "state")


def look(
    tmp_path: Path, *answers: tuple[int, Any], pods: tuple[dict[str, Any], ...] = (), namespaces: tuple[str, ...] = ()
) -> Predecessor:
    """One look."""

    async def run() -> Predecessor:
        async def list_pods() -> list[dict[str, Any]]:
            return list(pods)

        before = Predecessor(server.api, traces(tmp_path, *namespaces), list_pods, machine())
        looked = asyncio.Event()
        task = asyncio.create_task(before.look(looked.set))
        await asyncio.wait_for(looked.wait(), 20)
        task.cancel()
        return before

    with serving(*answers) as server:
        return asyncio.run(run())


def test_without_one_nothing_is_found(tmp_path: Path) -> None:
    before = look(tmp_path, *NOTHING)
    assert (before.looked, before.problem, before.taken_over) == (True, "", None)


def test_while_one_runs_the_commands_that_remove_it_are_told(tmp_path: Path) -> None:
    there: tuple[int, Any] = (200, {"kind": "x"})
    old = pod(RECONCILE, owner={"kind": "DaemonSet", "name": "ds"})
    before = look(tmp_path, there, there, NOT_FOUND, pods=(old,))
    assert (before.looked, before.reason, before.taken_over) == (True, Obstacle.OLD_CMK_RUNS, None)
    assert before.problem.endswith(
        "remove it and the agent goes on: kubectl -n ns delete daemonset ds ; kubectl delete mutatingwebhookconfiguration "
        "cmk-webhook-config ; kubectl delete crd cmk-nodereports.intel.com"
    )


def test_a_pod_that_mounts_only_cmks_directories_is_not_in_the_way(tmp_path: Path) -> None:
    before = look(tmp_path, *NOTHING, pods=(pod(RECONCILE, paths=(str(tmp_path / "opt"),)),))
    assert (before.looked, before.problem) == (True, "")


def test_an_api_server_that_does_not_answer_is_not_nothing_found(tmp_path: Path) -> None:
    before = look(tmp_path, (500, {"message": "no"}))
    assert (before.looked, before.taken_over) == (False, None)


def test_a_directory_is_taken_over_and_kept_beside(tmp_path: Path) -> None:
    tree(tmp_path / "etc", TREES["CMK 1.4.1"])
    before = look(tmp_path, *NOTHING)
    assert before.taken_over is not None
    assert before.source == f"the directory {tmp_path}/etc"
    assert [item.name for item in before.taken_over.layout.pools["exclusive"].lists] == ["3,11", "4,12", "5,13"]
    before.set_aside()
    assert (tmp_path / "etc/pools.old/exclusive").is_dir()
    assert not (tmp_path / "etc/pools").exists()


def test_a_directory_that_contradicts_the_machine_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "etc", {"exclusive": ("1", {"0/3": ""}), "infra": ("0", {"0/0": ""})})
    before = look(tmp_path, *NOTHING)
    assert (before.reason, before.taken_over) == (Obstacle.ADOPTION_REFUSED, None)
    assert f"the directory {tmp_path}/etc does not fit this node: exclusive:3 is not one physical core" in before.problem


CONFIG = "exclusive: {0: {'2,10': ['1']}}\ninfra: {0: {'0,8': []}}\n"


def test_a_configmap_is_taken_over_and_kept(tmp_path: Path) -> None:
    before = look(tmp_path, *NOTHING, NOT_FOUND, (200, {"data": {"config": CONFIG}}), namespaces=("a", "b"))
    assert before.taken_over is not None
    assert before.source == "ConfigMap b/cmk-config-n of CMK 1.5"
    assert [task.pid for task in before.taken_over.tasks] == [1]
    before.set_aside()
    assert (tmp_path / "state/cmk-config.yaml.old").read_text() == CONFIG


@pytest.mark.parametrize("text", ["!!python/object:x {}", "{", ""])
def test_a_configmap_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    before = look(tmp_path, *NOTHING, (200, {"data": {"config": text}}), namespaces=("a",))
    assert before.reason == Obstacle.ADOPTION_REFUSED


def test_a_refused_directory_that_is_taken_away_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path / "etc", {"exclusive": ("1", {"0/3": ""}), "infra": ("0", {"0/0": ""})})
    monkeypatch.setattr("cmk.legacy.predecessor.SECONDS_BETWEEN_LOOKS", 0.01)

    async def run() -> Predecessor:
        async def list_pods() -> list[dict[str, Any]]:
            return []

        def changed() -> None:
            if before.problem:
                shutil.rmtree(tmp_path / "etc/pools")

        before = Predecessor(server.api, traces(tmp_path), list_pods, machine())
        await asyncio.wait_for(before.look(changed), 20)
        return before

    with serving(*NOTHING, *NOTHING) as server:
        before = asyncio.run(run())
    assert (before.problem, before.taken_over) == ("", None)
