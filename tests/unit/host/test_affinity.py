import itertools
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from cmk.host import affinity, passes
from cmk.host.affinity import AffinityError, Pinning, pin
from cmk.host.procfs import Procfs

ALL = frozenset(os.sched_getaffinity(0))
PROCFS = Procfs()


def alive() -> bool:
    return False


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
        pin(PROCFS, process.pid, cpus, alive)
        threads = PROCFS.threads(process.pid)
        assert len(threads) == 2
        assert all(os.sched_getaffinity(tid) == cpus for tid in threads)
        process.kill()


def test_cpus_that_do_not_exist_are_refused_and_nothing_changes(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(AffinityError, match="refused by the kernel"):
        pin(PROCFS, sleeper.pid, frozenset({4000}), alive)
    assert os.sched_getaffinity(sleeper.pid) == ALL


def test_a_partial_answer_of_the_kernel_is_refused_and_undone(sleeper: subprocess.Popen[bytes]) -> None:
    with pytest.raises(AffinityError, match="allows only"):
        pin(PROCFS, sleeper.pid, frozenset({min(ALL), 4000}), alive)
    assert os.sched_getaffinity(sleeper.pid) == ALL


def test_a_process_that_has_ended_is_a_lookup_error(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(ProcessLookupError):
        pin(PROCFS, sleeper.pid, ALL, alive)


def test_the_cpuset_s_cpus_are_read_without_a_change_of_the_own_affinity() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert affinity.allowed(frozenset(before | {4095})) == before
        assert affinity.allowed(frozenset({4095})) == frozenset()
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


CPUS = frozenset({0})
OTHERS = frozenset({0, 1})


class Host(Procfs):
    """Threads of processes, and their masks. ``before_get`` runs before each mask is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: dict[int, list[int]]) -> None:
        super().__init__()
        self.processes = processes
        self.masks = {tid: OTHERS for tids in processes.values() for tid in tids}
        self.before_get: Callable[[int], None] = lambda _: None
        self.ended = False
        monkeypatch.setattr(os, "sched_getaffinity", self._get)
        monkeypatch.setattr(os, "sched_setaffinity", self._set)

    def threads(self, pid: int) -> list[int]:
        return list(self.processes[pid])

    def has_thread(self, pid: int, tid: int) -> bool:
        return tid in self.processes[pid]

    def has_ended(self) -> bool:
        return self.ended

    def start(self, pid: int, tid: int, mask: frozenset[int]) -> None:
        self.processes[pid].append(tid)
        self.masks[tid] = mask

    def end(self, pid: int, tid: int) -> None:
        self.processes[pid].remove(tid)
        del self.masks[tid]

    def _get(self, tid: int) -> frozenset[int]:
        self.before_get(tid)
        if tid not in self.masks:
            raise ProcessLookupError
        return self.masks[tid]

    def _set(self, tid: int, cpus: frozenset[int]) -> None:
        if tid not in self.masks:
            raise ProcessLookupError
        self.masks[tid] = frozenset(cpus)


def test_a_thread_that_ends_is_its_own_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8, 9]})
    host.before_get = lambda tid: host.end(7, 8) if tid == 8 and 8 in host.masks else None
    pin(host, 7, CPUS, host.has_ended)
    assert host.masks == {7: CPUS, 9: CPUS}


def test_a_thread_that_is_started_by_one_that_ends_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})

    def replace(tid: int) -> None:
        if tid == 8 and 8 in host.masks:
            host.start(7, 9, host.masks[8])
            host.end(7, 8)

    host.before_get = replace
    pin(host, 7, CPUS, host.has_ended)
    assert host.masks == {7: CPUS, 9: CPUS}


def test_a_process_that_gets_the_pid_during_the_pin_gets_its_masks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})

    def end_and_use_again(_: int) -> None:
        if not host.ended:
            host.ended, host.masks[7], host.masks[8] = True, frozenset({1}), frozenset({0, 1, 2})

    host.before_get = end_and_use_again
    with pytest.raises(ProcessLookupError):
        pin(host, 7, CPUS, host.has_ended)
    assert host.masks == {7: frozenset({1}), 8: frozenset({0, 1, 2})}


def test_a_process_that_gets_the_pid_when_its_mask_is_read_back_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7]})

    def end_and_use_again(_: int) -> None:
        if host.masks[7] == CPUS:
            host.ended, host.masks[7] = True, frozenset({0, 1, 2})

    host.before_get = end_and_use_again
    with pytest.raises(AffinityError):
        pin(host, 7, CPUS, host.has_ended)
    assert host.masks == {7: frozenset({0, 1, 2})}


def test_no_process_is_set_that_gets_the_pid_just_before(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7]})
    host.before_get = lambda _: setattr(host, "ended", True)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: pytest.fail("set"))
    with pytest.raises(ProcessLookupError):
        pin(host, 7, CPUS, host.has_ended)


def test_a_thread_of_another_process_that_gets_the_id_of_one_that_has_ended_gets_its_mask_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(monkeypatch, {7: [7, 8]})
    host.before_get = lambda tid: host.processes.update({7: [7]}) if tid == 8 else None
    pin(host, 7, CPUS, host.has_ended)
    assert host.masks == {7: CPUS, 8: OTHERS}


def replacing(host: Host) -> None:
    """Make the second thread of process 7 end each time that it is looked at, after it has started another."""

    def replace(tid: int) -> None:
        if tid > 7 and tid in host.masks:
            host.start(7, tid + 1, host.masks[tid])
            host.end(7, tid)

    host.before_get = replace


def test_a_process_that_keeps_starting_threads_is_refused_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})
    replacing(host)
    with pytest.raises(AffinityError, match="process 7 keeps starting threads"):
        pin(host, 7, CPUS, host.has_ended)
    assert set(host.masks.values()) == {OTHERS}


def test_a_pin_is_given_up_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})
    replacing(host)
    clock = itertools.count()
    pinning = Pinning(host, 7, CPUS, host.has_ended, lambda: next(clock))
    with pytest.raises(AffinityError, match="keeps starting threads"):
        pinning.pin()
    assert max(host.masks) == 7 + 1 + passes.LEAST
    host.before_get = lambda _: None
    assert pinning.undo()
    assert set(host.masks.values()) == {OTHERS}


def test_an_undo_is_given_up_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})
    replacing(host)
    clock = itertools.count(step=1000)
    pinning = Pinning(host, 7, CPUS, host.has_ended, lambda: next(clock))
    with pytest.raises(AffinityError, match="keeps starting threads"):
        pinning.pin()
    pinned = max(host.masks)
    assert not pinning.undo()
    assert max(host.masks) == pinned + passes.LEAST


def test_a_process_that_starts_no_threads_is_pinned_on_a_node_however_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})
    clock = itertools.count(step=1000)
    Pinning(host, 7, CPUS, host.has_ended, lambda: next(clock)).pin()
    assert host.masks == {7: CPUS, 8: CPUS}


def test_threads_that_were_started_on_the_cpus_are_restored_too(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7]})
    pinning = pin(host, 7, CPUS, host.has_ended)
    host.start(7, 8, CPUS)
    assert pinning.undo()
    assert host.masks == {7: OTHERS, 8: OTHERS}


def test_a_mask_that_the_client_has_set_itself_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, {7: [7, 8]})
    pinning = pin(host, 7, CPUS, host.has_ended)
    host.masks[8] = frozenset({1})
    assert pinning.undo()
    assert host.masks == {7: OTHERS, 8: frozenset({1})}
