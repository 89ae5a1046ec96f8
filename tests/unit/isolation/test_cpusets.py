"""Cpusets on a fabricated tree of one pod: what is wanted of each group is one fixed set of CPUs."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cmk.host.inotify import DirectoryWatch
from cmk.isolation import cpusets as module
from cmk.isolation.cgroups import FILE
from cmk.isolation.cpusets import PodCpusets
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet
from tests.unit.isolation.cgrouptree import UID, Kernel, add, container, make, pod_directory, set_text

WANTED = frozenset({0, 1})
POD = pod_directory(1)
CONTAINER = f"{POD}/{container('a')}"


@pytest.fixture(params=[True, False], ids=["v1", "v2"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Kernel:
    cpus = "0-3" if request.param else ""
    return make(tmp_path, {"": cpus, POD: cpus, CONTAINER: cpus}, strict=request.param, cpus="0-3")


class Reported:
    """Cpusets of a kernel, and how often they reported a change."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.reports = 0
        self.cpusets = PodCpusets(kernel, lambda groups: (dict.fromkeys(groups, WANTED), groups.keys()), self._count)

    def configured(self) -> set[CpuSet | None]:
        return {cpus for _, cpus in self.kernel.walk()}

    def _count(self) -> None:
        self.reports += 1


@asynccontextmanager
async def started(kernel: Kernel, *, resumed: bool = False) -> AsyncIterator[Reported]:
    reported = Reported(kernel)
    reported.cpusets.start(resumed=resumed)
    try:
        yield reported
    finally:
        reported.cpusets.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_all_groups_have_the_wanted_cpus_from_the_start(kernel: Kernel) -> None:
    async def run() -> None:
        async with started(kernel) as it:
            assert it.configured() == {WANTED}
            assert (it.cpusets.problem, it.cpusets.unwatched, it.cpusets.drift, it.reports) == ("", "", 0, 0)

    asyncio.run(run())


def test_a_group_that_comes_later_is_narrowed(kernel: Kernel) -> None:
    async def run() -> None:
        async with started(kernel) as it:
            add(kernel.directory(pod_directory(2)), "0-3" if kernel.strict else "", strict=kernel.strict)
            await until(lambda: it.configured() == {WANTED})
            assert it.cpusets.drift == 0

    asyncio.run(run())


def test_a_cpuset_that_somebody_else_changes_is_put_right_and_counted(kernel: Kernel) -> None:
    async def run() -> None:
        async with started(kernel) as it:
            set_text(kernel.directory(CONTAINER), FILE, "0")
            await until(lambda: it.configured() == {WANTED})
            assert (it.cpusets.drift, it.reports) == (1, 1)

    asyncio.run(run())


@pytest.mark.parametrize(("resumed", "drift"), [(True, 1), (False, 0)])
def test_differences_at_the_start_are_drift_if_an_earlier_agent_enforced(kernel: Kernel, resumed: bool, drift: int) -> None:
    for path, _ in list(kernel.walk()):
        set_text(kernel.directory(path), FILE, "0-1")
    set_text(kernel.directory(CONTAINER), FILE, "0")

    async def run() -> None:
        async with started(kernel, resumed=resumed) as it:
            assert it.cpusets.drift == drift
            assert it.configured() == {WANTED}

    asyncio.run(run())


def test_a_refused_write_is_a_problem_until_it_succeeds(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    async def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(kernel, "write", refuse)
            it = Reported(kernel)
            it.cpusets.start(resumed=False)
        assert it.cpusets.problem.endswith(f"/{FILE}: 0-1 refused: Permission denied")
        assert it.reports == 1
        it.cpusets.enforce()
        assert (it.cpusets.problem, it.reports) == ("", 2)
        assert it.configured() == {WANTED}
        it.cpusets.stop()

    asyncio.run(run())


def test_a_write_that_the_kernel_changes_is_a_problem(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "write", lambda path, _: Kernel.write(kernel, path, frozenset({0, 1, 2})))

    async def run() -> None:
        async with started(kernel) as it:
            assert it.cpusets.problem.endswith(f"/{FILE}: 0-1 became 0-2")

    asyncio.run(run())


def test_without_watches_changes_are_found_by_frequent_passes(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DirectoryWatch, "add", refuse)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_PASSES_WITHOUT_WATCHES", 0.0)

    async def run() -> None:
        async with started(kernel) as it:
            assert "fs.inotify.max_user_watches" in it.cpusets.unwatched
            set_text(kernel.directory(CONTAINER), FILE, "0")
            await until(lambda: it.configured() == {WANTED})

    asyncio.run(run())


def test_a_group_that_is_removed_is_forgotten(kernel: Kernel) -> None:
    async def run() -> None:
        async with started(kernel) as it:
            for file in kernel.directory(CONTAINER).iterdir():
                file.unlink()
            kernel.directory(CONTAINER).rmdir()
            await until(lambda: CONTAINER not in it.cpusets.groups)
            assert (set(it.cpusets.groups), it.cpusets.problem) == ({"", POD}, "")

    asyncio.run(run())


def test_processes_of_a_container_are_those_of_all_its_groups(kernel: Kernel) -> None:
    add(kernel.directory(f"{CONTAINER}/own"), "0-3" if kernel.strict else "", strict=kernel.strict)
    for number, path in enumerate((POD, CONTAINER, f"{CONTAINER}/own")):
        set_text(kernel.directory(path), "cgroup.procs", str(number))
    it = Reported(kernel)
    it.cpusets.scan()
    assert it.cpusets.pids_in(PodContainer(UID.format(1), "a" * 64)) == [1, 2]
