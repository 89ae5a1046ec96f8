"""Real processes of this machine: moved off a CPU one by one, and given back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmk.host.procfs import Procfs
from cmk.isolation.host_processes import HostProcesses
from cmk.isolation.originals import Saved
from cmk.model.isolation_config import Isolation, Thread


class Few(Procfs):
    """Only these processes are there."""

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


def test_a_process_leaves_and_comes_back(child: subprocess.Popen[bytes]) -> None:
    kept: list[Saved] = [Saved("boot", Isolation())]

    def keep(*, threads: list[Thread]) -> None:
        kept.append(Saved("boot", Isolation(), threads=threads))
        assert os.sched_getaffinity(child.pid) == everywhere or not threads, "saved before it is moved"

    everywhere = os.sched_getaffinity(child.pid)
    closed = frozenset({min(everywhere)})
    layer = HostProcesses(Few(child.pid), keep)
    assert layer.on(kept[-1], closed).state == "on"
    assert os.sched_getaffinity(child.pid) == everywhere - closed
    layer.on(kept[-1], closed)
    assert len(kept) == 2, "nothing is left to move"
    layer.off(kept[-1])
    assert os.sched_getaffinity(child.pid) == everywhere
    assert kept[-1].threads == []


def test_a_child_born_after_the_move_comes_back_too(child: subprocess.Popen[bytes]) -> None:
    everywhere = frozenset(os.sched_getaffinity(child.pid))
    since = everywhere - {min(everywhere)}
    os.sched_setaffinity(child.pid, since)
    HostProcesses(Few(child.pid), lambda **_: None).off(Saved("boot", Isolation(), threads=[Thread(1, 0, everywhere, since)]))
    assert os.sched_getaffinity(child.pid) == everywhere


def test_what_has_no_other_cpu_is_named(child: subprocess.Popen[bytes]) -> None:
    closed = frozenset({min(os.sched_getaffinity(child.pid))})
    os.sched_setaffinity(child.pid, closed)
    state = HostProcesses(Few(child.pid), lambda **_: None).on(Saved("boot", Isolation()), closed)
    assert state.left == (Path(f"/proc/{child.pid}/comm").read_text().strip(),)
    assert os.sched_getaffinity(child.pid) == closed


def test_pools_that_move_give_back_what_they_leave(child: subprocess.Popen[bytes]) -> None:
    everywhere = frozenset(os.sched_getaffinity(child.pid))
    first, second = (frozenset({cpu}) for cpu in sorted(everywhere)[:2])
    kept = [Saved("boot", Isolation())]
    layer = HostProcesses(Few(child.pid), lambda **changes: kept.append(Saved("boot", Isolation(), **changes)))
    for closed in (first, second, first, frozenset()):
        layer.on(kept[-1], closed)
        assert os.sched_getaffinity(child.pid) == everywhere - closed
        assert [(thread.before, thread.since) for thread in kept[-1].threads] == [(everywhere, everywhere - closed)]
    layer.on(kept[-1], second)
    layer.off(kept[-1])
    assert os.sched_getaffinity(child.pid) == everywhere


def test_a_child_of_one_that_was_moved_goes_where_its_parent_goes(child: subprocess.Popen[bytes]) -> None:
    everywhere = frozenset(os.sched_getaffinity(child.pid))
    first, second = (frozenset({cpu}) for cpu in sorted(everywhere)[:2])
    os.sched_setaffinity(child.pid, everywhere - first)
    saved = Saved("boot", Isolation(), threads=[Thread(1, 0, everywhere, everywhere - first)])
    HostProcesses(Few(child.pid), lambda **_: None).on(saved, second)
    assert os.sched_getaffinity(child.pid) == everywhere - second
