"""What the workload finds: the same process, the same surroundings, and the CPUs in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmk import __version__
from tests.unit.launcher.conftest import OK, FakeAgent, Launcher

Agents = Callable[..., FakeAgent]
# The shell reads its own status: around a fork it has its signals blocked.
SURROUNDINGS = """
while read -r key value; do case $key in SigBlk:|SigIgn:|SigCgt:|Cpus_allowed_list:) echo $key $value;; esac; done </proc/self/status
umask; pwd; env | grep -v ^_= | sort; ls /proc/$$/fd
"""


def test_surroundings_are_those_of_the_container(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, OK)
    environment = launcher.environment(KEPT="as it was")
    bare = subprocess.run(["sh", "-c", SURROUNDINGS], env=environment, capture_output=True, text=True, check=True)
    done = launcher.run("isolate", "--pool=infra", "sh", "--", "-c", SURROUNDINGS, env=environment)
    added = {line for line in done.stdout.splitlines() if line not in bare.stdout.splitlines()}
    assert added == set(OK.decode().splitlines()[1:])
    assert [line for line in done.stdout.splitlines() if line not in added] == bare.stdout.splitlines()


def test_the_process_is_the_same(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, OK)
    with launcher.start("isolate", "--pool=infra", "sh", "--", "-c", "echo $$") as process:
        assert process.communicate()[0] == f"{process.pid}\n"


def test_only_variables_of_cmk_are_taken(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, b"cmk/1 ok\nLD_PRELOAD=/evil.so\nCMK_CPUS_ASSIGNED=1\nnothing")
    done = launcher.run("isolate", "--pool=infra", "env")
    assert "LD_PRELOAD" not in done.stdout
    assert "CMK_CPUS_ASSIGNED=1\n" in done.stdout


def test_a_list_of_4096_cpus_arrives_whole(launcher: Launcher, agent: Agents) -> None:
    cpus = ",".join(str(cpu) for cpu in range(0, 4096, 2))
    agent(launcher.socket, f"cmk/1 ok\nCMK_CPUS_ASSIGNED={cpus}\nCMK_CPUS_INFRA={cpus}".encode())
    done = launcher.run("isolate", "--pool=infra", "sh", "--", "-c", 'echo "$CMK_CPUS_ASSIGNED"; echo "$CMK_CPUS_INFRA"')
    assert done.stdout.split() == [cpus, cpus]


@pytest.mark.parametrize("wait", [(), ("--wait",)])
@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("/nowhere/at/all", 127, "cannot run /nowhere/at/all: No such file or directory"),
        ("/etc", 126, "cannot run /etc: Permission denied"),
        ("sleep 5", 127, "no program is named \"sleep 5\"; for a shell line write: sh -- -c 'sleep 5'"),
    ],
)
def test_what_cannot_run(launcher: Launcher, agent: Agents, wait: tuple[str, ...], command: str, code: int, message: str) -> None:
    agent(launcher.socket, OK)
    done = launcher.run("isolate", "--pool=infra", *wait, command)
    assert (done.returncode, done.stderr) == (code, f"cmk: {message}\n")


@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_the_status_of_the_workload_is_ours(launcher: Launcher, agent: Agents, wait: tuple[str, ...]) -> None:
    agent(launcher.socket, OK)
    assert launcher.run("isolate", "--pool=infra", *wait, "sh", "--", "-c", "exit 42").returncode == 42


def test_a_waiting_parent_tells_which_signal_killed(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, OK)
    assert launcher.run("isolate", "--pool=infra", "--wait", "sh", "--", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_waiting_parent_forwards_signals(launcher: Launcher, agent: Agents, number: signal.Signals) -> None:
    agent(launcher.socket, OK)
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo got; exit 7' {name}; echo $$; while :; do sleep 0.01; done"
    with launcher.start("isolate", "--pool=infra", "--wait", "sh", "--", "-c", script) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) != process.pid
        process.send_signal(number)
        assert process.communicate(timeout=20)[0] == "got\n"
        assert process.returncode == 7


def test_a_waiting_parent_whose_own_parent_ignored_ends_of_children(launcher: Launcher, agent: Agents) -> None:
    """It sees the end of its child, and the workload ignores those of its own as it would without cmk."""
    agent(launcher.socket, OK)
    script = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"
    ignoring = Launcher(launcher.language, [sys.executable, "-c", script, *launcher.command], launcher.socket.parent)
    assert ignoring.run("isolate", "--pool=infra", "--wait", "sh", "--", "-c", "exit 7").returncode == 7
    done = ignoring.run("isolate", "--pool=infra", "--wait", "grep", "--", "SigIgn", "/proc/self/status")
    assert int(done.stdout.split()[1], 16) & 1 << signal.SIGCHLD - 1


def test_a_waiting_parent_asks_as_the_child(launcher: Launcher, agent: Agents) -> None:
    # The agent pins who asks: that must be the workload.
    agent(launcher.socket, OK)
    done = launcher.run("isolate", "--pool=infra", "--wait", "sh", "--", "-c", "echo $CMK_CPUS_ASSIGNED; grep -c . /proc/$$/stat")
    assert done.stdout.split() == ["3,11", "1"]


def test_version(built: Path) -> None:
    for command in ([built], [sys.executable, "-m", "cmk"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"cmk {__version__}\n"


@pytest.mark.parametrize(
    "command", ["init", "discover", "reconcile", "install", "uninstall", "cluster-init", "webhook", "reconfigure", "agent"]
)
def test_the_static_launcher_says_who_does_the_rest(built: Path, command: str) -> None:
    done = subprocess.run([built, command, "--whatever"], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stderr.startswith(f"cmk: {command} is not done from a container: ")


def test_a_command_that_was_never_there(built: Path) -> None:
    done = subprocess.run([built, "isolte"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (78, "cmk: unknown command isolte; see cmk --help\n")


def test_output_that_nobody_reads_is_no_success(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok", *[b"x" * 60000] * 20])
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*launcher.command, "describe"], env=launcher.environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_the_fast_path_imports_next_to_nothing() -> None:
    script = "import sys; before = set(sys.modules); import cmk.isolate.launch; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, 'image'); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    own = {f"cmk.isolate.{name}" for name in ("ask", "grammar", "launch", "run", "say")}
    assert set(done.stdout.split()) <= {"cmk", "cmk.isolate", "_socket", *own}
