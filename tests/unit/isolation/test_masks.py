"""The kernel's part, changing masks behind one's back, is played by this test; it takes a machine with two CPUs."""

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


@pytest.fixture
def child() -> Iterator[int]:
    """A process that may run on ONE."""
    with subprocess.Popen(["sleep", "60"]) as process:
        os.sched_setaffinity(process.pid, ONE)
        yield process.pid
        process.kill()


@pytest.fixture
def procfs(child: int, tmp_path: Path) -> Procfs:
    """Nobody but that process: no test looks at others, or moves them."""
    (tmp_path / str(child)).symlink_to(f"/proc/{child}")
    return Procfs(tmp_path)


@pytest.mark.parametrize(
    ("given", "becomes"), [(NONE, ONE), (OTHER, ONE | OTHER)], ids=["what nobody gave is taken away", "what is given is kept"]
)
def test_threads_gain_what_they_are_given(child: int, procfs: Procfs, given: frozenset[int], becomes: frozenset[int]) -> None:
    with preserved(procfs, given) as moved:
        os.sched_setaffinity(child, ONE | OTHER)
    assert os.sched_getaffinity(child) == becomes
    assert [(thread.tid, thread.before) for thread in moved] == ([] if given else [(child, ONE)])


def test_who_loses_cpus_is_left_alone(child: int, procfs: Procfs) -> None:
    os.sched_setaffinity(child, ONE | OTHER)
    with preserved(procfs, NONE) as moved:
        os.sched_setaffinity(child, OTHER)
    assert os.sched_getaffinity(child) == OTHER
    assert moved == []


def test_who_has_lost_everything_goes_back_when_it_is_there_again(child: int, procfs: Procfs) -> None:
    with preserved(procfs, NONE) as moved:
        os.sched_setaffinity(child, OTHER)
    (thread,) = moved
    assert (thread.tid, thread.before, thread.since) == (child, ONE, OTHER)
    assert restore(procfs, moved, OTHER) == moved
    assert os.sched_getaffinity(child) == OTHER
    assert restore(procfs, moved, ONE | OTHER) == []
    assert os.sched_getaffinity(child) == ONE


def test_who_gets_some_of_it_back_waits_for_the_rest(child: int, procfs: Procfs) -> None:
    thread = Thread(child, procfs.start_time(child), ONE | OTHER, ONE)
    os.sched_setaffinity(child, ONE)
    assert restore(procfs, [thread], ONE) == [thread]
    assert os.sched_getaffinity(child) == ONE
    assert restore(procfs, [thread], ONE | OTHER) == []
    assert os.sched_getaffinity(child) == ONE | OTHER


def test_another_process_of_that_number_is_not_touched(child: int, procfs: Procfs) -> None:
    with preserved(procfs, NONE) as moved:
        os.sched_setaffinity(child, OTHER)
    strangers = [msgspec.structs.replace(thread, start=1) for thread in moved]
    assert restore(procfs, strangers, ONE | OTHER) == []
    assert os.sched_getaffinity(child) == OTHER


def test_a_change_that_fails_keeps_masks_too(child: int, procfs: Procfs) -> None:
    def change() -> None:
        with preserved(procfs, NONE):
            os.sched_setaffinity(child, ONE | OTHER)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert os.sched_getaffinity(child) == ONE
