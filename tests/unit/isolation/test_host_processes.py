"""Real processes of this machine, moved off a CPU and back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.isolation.host_processes import ProcessLayer
from cmk.isolation.originals import Originals
from cmk.model.isolation_config import Thread


class Few(Procfs):
    """A host with only these processes."""

    def __init__(self, *pids: int) -> None:
        super().__init__()
        self._pids = pids

    def pids(self) -> Iterator[int]:
        return iter(self._pids)


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def originals(tmp_path: Path) -> Originals:
    return Originals(tmp_path / "isolation.json", "boot")


def test_a_process_leaves_and_comes_back(child: subprocess.Popen[bytes], originals: Originals) -> None:
    everywhere = os.sched_getaffinity(child.pid)
    closed = frozenset({min(everywhere)})
    layer = ProcessLayer(Few(child.pid), originals)
    assert layer.isolate(closed).state == "on"
    assert os.sched_getaffinity(child.pid) == everywhere - closed
    saved = originals.saved
    layer.isolate(closed)
    assert originals.saved is saved, "nothing is left to move"
    layer.restore()
    assert os.sched_getaffinity(child.pid) == everywhere
    assert originals.saved.threads == []


def test_a_thread_that_ends_leaves_the_others_of_its_process_isolated(
    child: subprocess.Popen[bytes], originals: Originals, monkeypatch: pytest.MonkeyPatch
) -> None:
    everywhere = os.sched_getaffinity(child.pid)
    closed = frozenset({min(everywhere)})
    layer = ProcessLayer(Few(child.pid), originals)
    monkeypatch.setattr(Procfs, "threads", lambda *_: [2**22 + 1, child.pid])
    layer.isolate(closed)
    assert os.sched_getaffinity(child.pid) == everywhere - closed


def test_a_mask_is_saved_before_it_is_changed(child: subprocess.Popen[bytes], tmp_path: Path) -> None:
    everywhere = os.sched_getaffinity(child.pid)

    class Unwritable(Originals):
        def save_threads(self, threads: list[Thread]) -> None:
            raise StateError(f"{len(threads)} threads")

    with pytest.raises(StateError):
        ProcessLayer(Few(child.pid), Unwritable(tmp_path / "isolation.json", "boot")).isolate(frozenset({min(everywhere)}))
    assert os.sched_getaffinity(child.pid) == everywhere


def test_a_child_born_after_the_move_comes_back_too(child: subprocess.Popen[bytes], originals: Originals) -> None:
    everywhere = frozenset(os.sched_getaffinity(child.pid))
    since = everywhere - {min(everywhere)}
    os.sched_setaffinity(child.pid, since)
    originals.save_threads([Thread(1, 0, everywhere, since)])
    ProcessLayer(Few(child.pid), originals).restore()
    assert os.sched_getaffinity(child.pid) == everywhere


def test_a_thread_without_another_cpu_is_named(child: subprocess.Popen[bytes], originals: Originals) -> None:
    closed = frozenset({min(os.sched_getaffinity(child.pid))})
    os.sched_setaffinity(child.pid, closed)
    state = ProcessLayer(Few(child.pid), originals).isolate(closed)
    assert state.left == (Path(f"/proc/{child.pid}/comm").read_text().strip(),)
    assert os.sched_getaffinity(child.pid) == closed


def test_a_change_of_pools_gives_back_the_cpus_that_they_leave(child: subprocess.Popen[bytes], originals: Originals) -> None:
    everywhere = frozenset(os.sched_getaffinity(child.pid))
    first, second = (frozenset({cpu}) for cpu in sorted(everywhere)[:2])
    layer = ProcessLayer(Few(child.pid), originals)
    for closed in (first, second, first, frozenset()):
        layer.isolate(closed)
        assert os.sched_getaffinity(child.pid) == everywhere - closed
        assert [(thread.before, thread.since) for thread in originals.saved.threads] == [(everywhere, everywhere - closed)]
    layer.isolate(second)
    layer.restore()
    assert os.sched_getaffinity(child.pid) == everywhere


def test_a_child_born_after_the_move_follows_the_next_one(child: subprocess.Popen[bytes], originals: Originals) -> None:
    everywhere = frozenset(os.sched_getaffinity(child.pid))
    first, second = (frozenset({cpu}) for cpu in sorted(everywhere)[:2])
    os.sched_setaffinity(child.pid, everywhere - first)
    originals.save_threads([Thread(1, 0, everywhere, everywhere - first)])
    ProcessLayer(Few(child.pid), originals).isolate(second)
    assert os.sched_getaffinity(child.pid) == everywhere - second
