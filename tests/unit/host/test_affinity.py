import os
import subprocess
from collections.abc import Iterator

import pytest

from cmk.host import affinity
from cmk.host.affinity import AffinityError, pin
from cmk.host.procfs import Procfs

ALL = frozenset(os.sched_getaffinity(0))
PROCFS = Procfs()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_pins_every_thread() -> None:
    code = "import threading,time;threading.Thread(target=time.sleep,args=(60,),daemon=True).start();print(1,flush=True);time.sleep(60)"
    with subprocess.Popen(["python3", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        cpus = frozenset({max(ALL)})
        pin(PROCFS, process.pid, cpus)
        threads = PROCFS.threads(process.pid)
        assert len(threads) == 2
        assert all(os.sched_getaffinity(tid) == cpus for tid in threads)
        process.kill()


def test_cpus_that_do_not_exist_are_refused_and_nothing_changes(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(AffinityError, match="refused by the kernel"):
        pin(PROCFS, sleeper.pid, frozenset({4000}))
    assert os.sched_getaffinity(sleeper.pid) == ALL


def test_a_partial_answer_of_the_kernel_is_refused_and_undone(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(AffinityError, match="allows only"):
        pin(PROCFS, sleeper.pid, frozenset({min(ALL), 4000}))
    assert os.sched_getaffinity(sleeper.pid) == ALL


def test_a_process_that_has_ended_is_a_lookup_error(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(ProcessLookupError):
        pin(PROCFS, sleeper.pid, ALL)


def test_the_cpuset_s_cpus_are_read_without_a_change_of_the_own_affinity() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert affinity.allowed(frozenset(before | {4095})) == before
        assert affinity.allowed(frozenset({4095})) == frozenset()
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
