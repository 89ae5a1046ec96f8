"""Direct mode as its users run it: the command, a directory, this machine or a fabricated one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


class Host:
    """The commands on one directory. ``root`` is a fabricated machine's, or None for this one."""

    def __init__(self, directory: Path, root: Path | None = None, program: str = "cmk") -> None:
        self.directory = directory
        self.root = root
        self.program = program

    def environment(self, **variables: str) -> dict[str, str]:
        """Nothing of the caller's that matters to us."""
        fabricated = {"CMK_DEV_LSCPU_SYSFS": str(self.root)} if self.root else {}
        return {"PATH": os.environ["PATH"], "CMK_LOCK_TIMEOUT": "0.5", **fabricated, **variables}

    def command(self, *args: str) -> list[str]:
        """One command line."""
        script = f"import sys; sys.argv[0] = {self.program!r}; from cmk.__main__ import main; sys.exit(main())"
        return [sys.executable, "-c", script, args[0], f"--conf-dir={self.directory}", *args[1:]]

    def run(self, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.command(*args), env=self.environment(**variables), capture_output=True, text=True, check=False, timeout=120
        )

    def ok(self, *args: str, **variables: str) -> str:
        """Run, expect success, return what was printed."""
        done = self.run(*args, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def isolated(self, *args: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """A workload that runs as long as the block: it prints a line and waits."""
        line = self.command("isolate", *args, "sh", "--", "-c", "echo started; read line")
        pipe = subprocess.PIPE
        with subprocess.Popen(line, env=self.environment(**variables), stdin=pipe, stdout=pipe, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "started\n"
                yield process
            finally:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGKILL)


@contextmanager
def running(host: Host, line: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command and whom it starts, not longer than the block."""
    with subprocess.Popen(line, env=host.environment(), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process is about to do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="session")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``cmk init`` makes of this machine: one exclusive core, the rest for infra."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.fail("these tests need two CPUs")
    host = Host(tmp_path_factory.mktemp("split") / "conf")
    host.ok("init", "--num-exclusive-cores=1", "--num-shared-cores=0")
    return host.directory


@pytest.fixture
def host(tmp_path: Path, split: Path) -> Host:
    """This machine, as split."""
    return Host(Path(shutil.copytree(split, tmp_path / "conf")))
