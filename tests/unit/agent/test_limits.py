"""Limits of a pod where the agent may open few files."""

import resource
import subprocess
import sys

import pytest

from cmk.agent.limits import Limits, files_of_clients


@pytest.mark.parametrize(
    ("files", "connections", "tasks"), [(1048576, 256, 1000), (4224, 256, 1000), (1024, 112, 224), (256, 16, 32), (1, 1, 1)]
)
def test_no_pod_gets_most_of_the_files(files: int, connections: int, tasks: int) -> None:
    assert Limits().fitting(files) == Limits(connections=connections, tasks=tasks)


def test_lowered_limits_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    Limits().fitting(100000)
    assert not caplog.records
    Limits().fitting(1024)
    assert (
        "the agent may open 1024 files only: a pod gets 112 connections instead of 256, and 224 tasks instead of 1000"
        in caplog.text
    )


@pytest.mark.parametrize(("files", "of_clients"), [(1024, 896), (256, 128), (100, 50)])
def test_some_files_are_the_agents_own(files: int, of_clients: int) -> None:
    assert files_of_clients(files) == of_clients


def test_as_many_files_as_the_kernel_allows() -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    program = (
        "import resource; from cmk.agent import limits; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, {most})); limits.raise_number_of_files(); print(limits.number_of_files())"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == f"{most}\n"
