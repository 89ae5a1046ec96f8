"""What is said when a start fails: in the container's termination log, on standard error if anybody listens, and by the exit code."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.launcher.conftest import OK, FakeAgent, Launcher

Agents = Callable[..., FakeAgent]
TEXTS = {
    75: "no cmk agent answered at {} within 0.1 s",
    78: "pool gold: there is none",
    127: "cannot run /nowhere: No such file or directory",
}
REPLIES = {78: b"cmk/1 error 78\npool gold: there is none", 127: OK}


@pytest.fixture
def log(launcher: Launcher, tmp_path: Path) -> Path:
    """The termination log of the launcher, which runs with a /dev of its own."""
    dev = tmp_path / "dev"
    dev.mkdir()
    os.mknod(dev / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (dev / "termination-log").touch()
    launcher.command[:0] = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev && exec "$@"', str(dev)]
    return dev / "termination-log"


def start(launcher: Launcher, *wait: str) -> list[str]:
    return [*launcher.command, "isolate", "--pool=infra", *wait, "/nowhere"]


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_standard_error_that_nobody_reads_changes_nothing(
    launcher: Launcher, agent: Agents, log: Path, code: int, wait: tuple[str, ...]
) -> None:
    if code in REPLIES:
        agent(launcher.socket, REPLIES[code])
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        start(launcher, *wait),
        env=launcher.environment(CMK_LOCK_TIMEOUT="0.1" if code == 75 else "20"),
        stderr=write,
        check=False,
    )
    os.close(write)
    assert done.returncode == code
    assert log.read_text() == f"cmk: {TEXTS[code].format(launcher.socket)}\n"


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_change_nothing(launcher: Launcher, agent: Agents, log: Path, code: int, closed: str) -> None:
    fake = agent(launcher.socket, REPLIES[code]) if code in REPLIES else None
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *start(launcher)]
    environment = launcher.environment(CMK_LOCK_TIMEOUT="0.1" if code == 75 else "20")
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")
    assert log.read_text() == f"cmk: {TEXTS[code].format(launcher.socket)}\n"
    assert fake is None or [request[""] for request in fake.requests] == ["cmk/1 isolate"]


def test_a_failed_description_is_in_the_log_too(launcher: Launcher, agent: Agents, log: Path) -> None:
    agent(launcher.socket, b"cmk/1 error 75\nlater")
    done = subprocess.run([*launcher.command, "describe"], env=launcher.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (75, b"", b"cmk: later\n")
    assert log.read_text() == "cmk: later\n"


def test_a_log_that_takes_nothing_changes_nothing(launcher: Launcher, agent: Agents, log: Path) -> None:
    agent(launcher.socket, REPLIES[78])
    log.unlink()
    os.mkfifo(log)
    done = subprocess.run(start(launcher), env=launcher.environment(), capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (78, b"cmk: pool gold: there is none\n")
