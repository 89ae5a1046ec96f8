"""What tests with real clients need around them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from tests.unit.agent.harness import PLACE, is_client
from tests.unit.agent.world import World


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the test's processes are listed: while others keep ending, nobody can tell what an owner outside pods has left."""
    mark = f"CMK_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*mark.split("="))
    every = Procfs.pids

    def is_marked(pid: int) -> bool:
        try:
            return mark.encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False

    monkeypatch.setattr(Procfs, "pids", lambda self: filter(is_marked, every(self)))


@pytest.fixture
def clients_in_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients and the children that they leave behind are in the pod, no other process is."""

    def place(self: Procfs, pid: int) -> PodContainer:
        return PLACE if is_client(self.root, pid) else PodContainer()

    def pids(self: Procfs, container: PodContainer) -> Iterable[int]:
        return [pid for pid in self.pids() if place(self, pid) == container] if container.pod else self.pids()

    monkeypatch.setattr(Procfs, "pod_container", place)
    monkeypatch.setattr(Procfs, "pids_in", pids)


@pytest.fixture
def own_affinity() -> Iterator[None]:
    """The agent of these tests is the tests' own process, which pins itself to infra; later tests want all CPUs."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients_in_pod: None, own_affinity: None) -> World:
    """A world whose agents pause no longer than they must."""
    monkeypatch.setattr("cmk.agent.publisher.SECONDS_BETWEEN_REPORTS", 0)
    monkeypatch.setattr("cmk.agent.publisher.REPORTS_AT_ONCE", 1000)
    monkeypatch.setattr("cmk.kube.watch.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("cmk.kube.watch.LAST_PAUSE", 0.05)
    monkeypatch.setattr("cmk.legacy.predecessor.SECONDS_BETWEEN_LOOKS", 0.01)
    return World(tmp_path)
