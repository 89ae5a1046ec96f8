"""Flags and variables that several commands share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cmk.cli.app import app
from tests.fabricate import fabricate
from tests.topologies import linux

FLAGS = (
    "--num-exclusive-cores=2",
    "--num-shared-cores=3",
    "--excl-non-isolcpus=5-6",
    "--exclusive-mode=spread",
    "--shared-mode=spread",
)
POOLS = {
    "exclusive": {"cores": 2, "mode": "spread"},
    "shared": {"cores": 3, "mode": "spread"},
    "exclusive-non-isolcpus": {"cores": "5-6"},
}


def printed(*args: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, list(args))
    assert done.exit_code == 0, done.output
    return dict(yaml.safe_load(done.stdout))


def test_reconfigure_takes_the_flags_of_init() -> None:
    assert printed("reconfigure", "--conf-dir=/nowhere", *FLAGS)["pools"] == POOLS


def test_reconfigure_setup_takes_the_flags_of_init() -> None:
    assert printed("reconfigure_setup", "--install-dir=/opt/bin", "--namespace=ns", *FLAGS)["pools"] == POOLS


def run(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "cmk", *args], env=variables, capture_output=True, text=True, check=False)


def test_the_log_level_is_checked(tmp_path: Path) -> None:
    done = run("init", f"--conf-dir={tmp_path}/x", CMK_LOG_LEVEL="loud")
    assert (done.returncode, "'loud' is not a valid log level; use CRITICAL" in " ".join(done.stderr.split())) == (2, True)


def test_warnings_are_told_at_their_level(tmp_path: Path) -> None:
    fabricate(tmp_path / "root", linux(1, 4), isolated="1,5")
    line = ("init", f"--conf-dir={tmp_path}/x", "--num-exclusive-cores=1", "--num-shared-cores=0", "--reserved-cpus=99")
    variables = {"CMK_DEV_LSCPU_SYSFS": f"{tmp_path}/root"}
    assert "reserved CPUs 99 are not online" in run(*line, **variables, CMK_LOG_LEVEL="WARNING").stderr
    (tmp_path / "x/pools.json").unlink()
    assert run(*line, **variables, CMK_LOG_LEVEL="ERROR").stderr == ""


def test_the_procfs_of_kcm_is_read(tmp_path: Path) -> None:
    fabricate(tmp_path / "root", linux(1, 4), isolated=None, cmdline="isolcpus=2,6")
    done = run(
        "init", f"--conf-dir={tmp_path}/x", "--num-exclusive-cores=1", "--num-shared-cores=0",
        CMK_DEV_LSCPU_SYSFS=f"{tmp_path}/root", KCM_PROC_FS=f"{tmp_path}/root/proc",
    )  # fmt: skip
    assert "pool exclusive: 2,6" in done.stderr


def test_the_agent_leaves_nothing_to_reconcile(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.bind(f"{tmp_path}/agent.sock")
        agent.listen()
        done = run("reconcile", f"--conf-dir={tmp_path}", "--publish")
    assert (done.returncode, done.stdout) == (0, "")
    assert "releases a task's lists as soon as it ends" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for_every_shell(shell: str) -> None:
    asked = {
        "_TYPER_COMPLETE_ARGS": "cmk re",
        "COMP_WORDS": "cmk re",
        "COMP_CWORD": "1",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert "reconcile" in run(_CMK_COMPLETE=f"complete_{shell}", **asked).stdout
