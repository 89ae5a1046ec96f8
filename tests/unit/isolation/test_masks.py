"""Masks of a real process; the tests change them in place of the kernel. They take a machine with two CPUs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cmk.host.procfs import Procfs
from cmk.isolation.masks import preserved, restore
from cmk.model.isolation_config import Thread

CPUS = sorted(os.sched_getaffinity(0))
ONE, OTHER = frozenset(CPUS[:1]), frozenset(CPUS[1:2])
NONE: frozenset[int] = frozenset()
ENDED = 2**22 + 1  # beyond the largest thread id


@pytest.fixture
def child() -> Iterator[int]:
    """A process that may run on ONE."""
    with subprocess.Popen(["sleep", "60"]) as process:
        os.sched_setaffinity(process.pid, ONE)
        yield process.pid
        process.kill()


@pytest.fixture
def procfs(child: int, tmp_path: Path) -> Procfs:
    """Only that process, so that no test reads others, or moves them."""
    (tmp_path / str(child)).symlink_to(f"/proc/{child}")
    return Procfs(tmp_path)


@pytest.mark.parametrize(("allowed", "becomes"), [(NONE, ONE), (OTHER, ONE | OTHER)], ids=["not allowed", "allowed"])
def test_a_thread_gains_only_cpus_that_are_allowed(
    child: int, procfs: Procfs, allowed: frozenset[int], becomes: frozenset[int]
) -> None:
    with preserved(procfs, allowed) as changed:
        os.sched_setaffinity(child, ONE | OTHER)
    assert os.sched_getaffinity(child) == becomes
    assert [(thread.tid, thread.before) for thread in changed] == ([] if allowed else [(child, ONE)])


def test_a_thread_that_loses_cpus_is_left_alone(child: int, procfs: Procfs) -> None:
    os.sched_setaffinity(child, ONE | OTHER)
    with preserved(procfs, NONE) as changed:
        os.sched_setaffinity(child, OTHER)
    assert os.sched_getaffinity(child) == OTHER
    assert changed == []


def test_a_thread_that_lost_all_cpus_gets_them_back_when_they_are_available(child: int, procfs: Procfs) -> None:
    with preserved(procfs, NONE) as changed:
        os.sched_setaffinity(child, OTHER)
    (thread,) = changed
    assert (thread.tid, thread.before, thread.since) == (child, ONE, OTHER)
    assert restore(procfs, changed, OTHER) == changed
    assert os.sched_getaffinity(child) == OTHER
    assert restore(procfs, changed, ONE | OTHER) == []
    assert os.sched_getaffinity(child) == ONE


def test_a_thread_that_gets_some_cpus_back_waits_for_the_rest(child: int, procfs: Procfs) -> None:
    thread = Thread(child, procfs.start_time(child), ONE | OTHER, ONE)
    os.sched_setaffinity(child, ONE)
    assert restore(procfs, [thread], ONE) == [thread]
    assert os.sched_getaffinity(child) == ONE
    assert restore(procfs, [thread], ONE | OTHER) == []
    assert os.sched_getaffinity(child) == ONE | OTHER


def test_another_process_with_that_pid_is_left_alone(child: int, procfs: Procfs) -> None:
    with preserved(procfs, NONE) as changed:
        os.sched_setaffinity(child, OTHER)
    strangers = [msgspec.structs.replace(thread, start=1) for thread in changed]
    assert restore(procfs, strangers, ONE | OTHER) == []
    assert os.sched_getaffinity(child) == OTHER


def test_a_change_that_fails_preserves_masks_too(child: int, procfs: Procfs) -> None:
    def change() -> None:
        with preserved(procfs, NONE):
            os.sched_setaffinity(child, ONE | OTHER)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert os.sched_getaffinity(child) == ONE


def test_a_thread_that_ends_leaves_the_others_of_its_process_preserved(
    child: int, procfs: Procfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "threads", lambda _: [ENDED, child])
    with preserved(procfs, NONE):
        os.sched_setaffinity(child, ONE | OTHER)
    assert os.sched_getaffinity(child) == ONE
