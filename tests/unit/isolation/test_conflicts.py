from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cmk.isolation.conflicts import KUBELET_CONFLICT, KubeletCpuManager, conflict_of, manager_of
from tests.unit.kube.test_kubelet import listening

CPU_1, NO_CPU = b"\x12\x01\x01", b""


@pytest.mark.parametrize(
    ("image", "phase", "manager"),
    [
        (
            "ghcr.io/containers/nri-plugins/nri-resource-policy-balloons:v0.14.0",
            "Running",
            "nri-plugins' balloons policy (pod ns/p)",
        ),
        ("registry:5000/dra-driver-cpu@sha256:abc", "Pending", "dra-driver-cpu (pod ns/p)"),
        ("cpusetter", "Running", "CPU-Pooler (pod ns/p)"),
        ("cpusetter", "Succeeded", ""),
        ("nginx:cpusetter", "Running", ""),
    ],
)
def test_other_managers_are_known_by_their_images(image: str, phase: str, manager: str) -> None:
    pod = {"metadata": {"namespace": "ns", "name": "p"}, "spec": {"containers": [{"image": image}]}, "status": {"phase": phase}}
    assert manager_of(pod) == manager


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
