"""Real processes that confine themselves to a CPU of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cmk.host.confined import confined_processes
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer

CPUS = sorted(os.sched_getaffinity(0))
LAST, OTHERS = frozenset(CPUS[-1:]), frozenset(CPUS[:-1])
PLACE = PodContainer("0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "ab" * 32)
THREADS = """
import os, sys, threading
ready = threading.Event()
def run():
    os.sched_setaffinity(0, {int(sys.argv[1])})
    ready.set()
    threading.Event().wait()
threading.Thread(target=run, daemon=True).start()
ready.wait()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A process in a pod, one of whose two threads is confined to the last CPU; its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", THREADS, str(CPUS[-1])], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        monkeypatch.setattr(Procfs, "pod_container", lambda _, pid: PLACE if pid == running.pid else PodContainer())
        yield running.pid
        running.kill()


def test_a_thread_on_these_cpus_alone_tells_its_process(process: int) -> None:
    (found,) = confined_processes(Procfs(), LAST, OTHERS)
    assert (found.process, found.container) == (Procfs().process(process), PLACE)
    assert (found.inside, found.astride) == (LAST, frozenset())


def test_a_process_that_may_run_everywhere_is_ordinary(process: int) -> None:
    for tid in Procfs().threads(process):
        os.sched_setaffinity(tid, CPUS)
    assert confined_processes(Procfs(), LAST, OTHERS) == []


def test_a_mask_with_cpus_of_both_sides_but_not_all_ordinary_ones_is_astride(process: int) -> None:
    for tid in Procfs().threads(process):
        os.sched_setaffinity(tid, CPUS)
    (found,) = confined_processes(Procfs(), LAST, OTHERS | {4000})
    assert (found.inside, found.astride) == (frozenset(), frozenset(CPUS))
