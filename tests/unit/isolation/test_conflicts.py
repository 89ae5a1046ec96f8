from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cmk.isolation.conflicts import KUBELET_CONFLICT, KubeletCpuManager, conflict_of, manager_of
from tests.unit.kube.test_kubelet import listening

CPU_1, NO_CPU = b"\x12\x01\x01", b""


HOST = {"volumes": [{"name": "nri", "hostPath": {"path": "/var/run/nri"}}]}


def pod(image: str, phase: str = "Running", container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "metadata": {"namespace": "ns", "name": "p"},
        "spec": {"containers": [{"image": image, **(container or {})}], **spec},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("image", "phase", "manager"),
    [
        (
            "ghcr.io/containers/nri-plugins/nri-resource-policy-balloons:v0.14.0",
            "Running",
            "nri-plugins' balloons policy (pod ns/p)",
        ),
        ("registry:5000/dra-driver-cpu@sha256:abc", "Running", "dra-driver-cpu (pod ns/p)"),
        ("cpusetter", "Running", "CPU-Pooler (pod ns/p)"),
        ("cpusetter", "Pending", ""),
        ("cpusetter", "Succeeded", ""),
        ("nginx:cpusetter", "Running", ""),
    ],
)
def test_other_managers_are_known_by_their_images(image: str, phase: str, manager: str) -> None:
    assert manager_of(pod(image, phase, **HOST), ()) == manager


def test_a_privileged_pod_may_be_another_manager() -> None:
    assert manager_of(pod("cpusetter", container={"securityContext": {"privileged": True}}), ()) == "CPU-Pooler (pod ns/p)"


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"volumes": None},
        {"volumes": [{"name": "v", "emptyDir": {}}]},
        {"volumes": [{"name": "v", "hostPath": None}]},
        {"volumes": [{"name": "v", "hostPath": {"path": "/opt/cmk"}}]},
        {"container": {"securityContext": None}},
        {"container": {"securityContext": {"privileged": False, "allowPrivilegeEscalation": True}}},
    ],
)
def test_a_pod_without_host_paths_and_privileges_is_no_manager(spec: dict[str, Any]) -> None:
    assert manager_of(pod("evil/nri-resource-policy-balloons", **spec), ("/opt/cmk",)) == ""


def test_a_conflict_names_the_managers_and_the_remedy() -> None:
    assert conflict_of(["", ""]) == ""
    text = conflict_of(["a (pod x/y)", "", "a (pod x/y)"])
    assert text.startswith("a (pod x/y) manages")
    assert "isolation.pods=false" in text


def test_the_answer_of_kubelet_holds_while_it_restarts(tmp_path: Path) -> None:
    socket = tmp_path / "s"

    async def run() -> None:
        reports: list[tuple[str, bool]] = []
        manager = KubeletCpuManager(socket, lambda: reports.append((manager.conflict, bool(manager.doubt))))
        await manager.ask(socket)
        assert manager.known
        async with listening(socket, CPU_1):
            await manager.ask(socket)
            await manager.ask(socket)
        await manager.ask(socket)
        async with listening(socket, NO_CPU):
            await manager.ask(socket)
        assert reports == [("", True), (KUBELET_CONFLICT, False), (KUBELET_CONFLICT, True), ("", False)]

    asyncio.run(run())


def test_kubelet_is_not_asked_when_no_layer_needs_to_know() -> None:
    manager = KubeletCpuManager(None, lambda: None)
    asyncio.run(manager.run())
    assert (manager.known, manager.conflict, manager.doubt) == (True, "", "")
