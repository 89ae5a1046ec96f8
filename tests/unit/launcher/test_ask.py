"""Finding the agent, waiting for it, and taking what it says."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.unit.launcher.conftest import OK, FakeAgent, Launcher

Agents = Callable[..., FakeAgent]
ISOLATE = ("isolate", "--pool=infra", "echo", "ran")


def test_an_agent_that_comes_late_is_waited_for(launcher: Launcher, agent: Agents) -> None:
    timer = threading.Timer(0.3, agent, (launcher.socket, OK))
    timer.start()
    assert launcher.run(*ISOLATE).stdout == "ran\n"
    timer.join()


def test_a_socket_that_nobody_serves_is_tried_again(launcher: Launcher, agent: Agents) -> None:
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    dead.bind(str(launcher.socket))
    dead.close()

    def replace() -> None:
        new = launcher.socket.with_name("new")
        agent(new, OK)
        new.rename(launcher.socket)

    timer = threading.Timer(0.3, replace)
    timer.start()
    assert launcher.run(*ISOLATE).stdout == "ran\n"
    timer.join()


def test_a_lost_answer_is_asked_for_again(launcher: Launcher, agent: Agents) -> None:
    fake = agent(launcher.socket, None, None, OK)
    assert launcher.run(*ISOLATE).stdout == "ran\n"
    assert len(fake.requests) == 3


def test_without_agent_it_gives_up_at_the_deadline(launcher: Launcher) -> None:
    done = launcher.run(*ISOLATE, CMK_LOCK_TIMEOUT="0.3")
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr == f"cmk: no cmk agent answered at {launcher.socket} within 0.3 s\n"


def test_an_agent_that_says_nothing_is_no_agent(launcher: Launcher) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.bind(str(launcher.socket))
        silent.listen()
        done = launcher.run(*ISOLATE, CMK_LOCK_TIMEOUT="0.3")
    assert (done.returncode, done.stdout) == (75, "")
    assert "within 0.3 s" in done.stderr


@contextmanager
def full_queue(path: Path) -> Iterator[socket.socket]:
    """A listener for whose first client others wait."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
    ):
        listener.bind(str(path))
        listener.listen(0)
        other.connect(str(path))
        yield listener


def place(process: subprocess.Popen[str]) -> str:
    """Where in the kernel a process waits: in the ``queue``, or by the ``clock`` until it comes again."""
    name = Path(f"/proc/{process.pid}/wchan").read_text()
    if "unix_stream_connect" in name or "unix_wait_for_peer" in name:
        return "queue"
    return "clock" if "nanosleep" in name else ""


def test_at_a_full_queue_waiting_in_it_and_coming_again_take_turns(launcher: Launcher) -> None:
    """Waiting alone hardly ever wins against others who try all the time, and coming again hardly ever against hundreds who wait."""
    with ExitStack() as stack:
        listener = stack.enter_context(full_queue(launcher.socket))
        process = stack.enter_context(launcher.start(*ISOLATE, CMK_LOCK_TIMEOUT="20"))
        seen: list[str] = []
        while len(seen) < 6:
            assert process.poll() is None, seen
            if (now := place(process)) and now not in seen[-1:]:
                seen.append(now)
        listener.accept()[0].close()
        with listener.accept()[0] as client:
            client.recv(65536)
            client.send(OK)
        assert process.communicate()[0] == "ran\n"


def test_nobody_waits_in_a_queue_beyond_the_deadline(launcher: Launcher) -> None:
    with full_queue(launcher.socket), launcher.start(*ISOLATE, CMK_LOCK_TIMEOUT="0.001") as process:
        seen = 0
        while process.poll() is None:
            seen += place(process) == "queue"
            time.sleep(0.001)
    # The kernel ends the wait, however busy the machine is: a millisecond and a clock tick, instead of half a second.
    assert (process.returncode, seen < 50) == (75, True)


@pytest.mark.parametrize("code", [75, 78])
def test_a_refusal_is_said_and_the_workload_not_started(launcher: Launcher, agent: Agents, code: int) -> None:
    agent(launcher.socket, f"cmk/1 error {code}\npool gold: there is none".encode())
    done = launcher.run(*ISOLATE)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "cmk: pool gold: there is none\n")


@pytest.mark.parametrize(
    ("text", "shown"), [("bad \x1b[31mname", "bad ?[31mname"), ("bad \x9b31mname", "bad ??31mname"), ("für \x7f", "für ?")]
)
def test_a_refusal_cannot_write_to_the_terminal(launcher: Launcher, agent: Agents, text: str, shown: str) -> None:
    agent(launcher.socket, f"cmk/1 error 78\n{text}".encode())
    assert launcher.run(*ISOLATE).stderr == f"cmk: {shown}\n"


def test_the_socket_is_looked_for_in_the_conf_dir(launcher: Launcher, agent: Agents, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    agent(tmp_path / "conf/agent.sock", OK)
    environment = {key: value for key, value in launcher.environment().items() if key != "CMK_SOCKET"}
    done = launcher.run("isolate", f"--conf-dir={tmp_path}/conf", *ISOLATE[1:], env=environment)
    assert (done.stdout, done.stderr) == ("ran\n", "")


def test_the_socket_is_looked_for_beside_the_launcher(tmp_path: Path, built: Path, agent: Agents) -> None:
    program = tmp_path / "cmk"
    program.write_bytes(built.read_bytes())
    program.chmod(0o755)
    agent(tmp_path / "agent.sock", OK)
    done = subprocess.run([program, *ISOLATE], env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ran\n", "")


def test_the_file_with_the_cpus_is_beside_the_socket(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok\nCMK_CPUS_ASSIGNED=1\nCMK_STATE=state/7-3.json"])
    done = launcher.run("isolate", "--pool=infra", "--on-move=notify", "sh", "--", "-c", "echo $CMK_STATE")
    assert (done.stdout, done.stderr) == (f"{launcher.socket.parent}/state/7-3.json\n", "")


def test_a_path_that_no_socket_can_have(launcher: Launcher) -> None:
    path = "/" + "x" * 107
    done = launcher.run(*ISOLATE, CMK_SOCKET=path)
    assert done.returncode == 78
    assert done.stderr == f"cmk: CMK_SOCKET={path[:40]} is longer than the path of a socket can be: 107 bytes\n"


@pytest.mark.parametrize("command", [ISOLATE, ("describe",)], ids=["isolate", "describe"])
def test_a_directory_that_no_socket_can_have(launcher: Launcher, command: tuple[str, ...]) -> None:
    directory = "/" + "x" * 96
    environment = {name: value for name, value in launcher.environment().items() if name != "CMK_SOCKET"}
    done = launcher.run(command[0], f"--conf-dir={directory}", *command[1:], env=environment)
    text = f"cmk: --conf-dir={directory[:40]} is longer than the directory of a socket can be: 96 bytes\n"
    assert (done.returncode, done.stderr) == (78, text)


def test_variables_of_kcm_are_read(launcher: Launcher, agent: Agents) -> None:
    fake = agent(launcher.socket, OK)
    environment = {name: value for name, value in launcher.environment().items() if name != "CMK_LOCK_TIMEOUT"}
    assert launcher.run(*ISOLATE, env={**environment, "KCM_LOCK_TIMEOUT": "70", "KCM_NUM_CORES": "2"}).returncode == 0
    assert fake.requests[0]["cores"] == "2"
    assert 60000 < int(fake.requests[0]["timeout"]) <= 70000


def test_called_kcm_the_workload_sees_what_kcm_set(tmp_path: Path, built: Path, agent: Agents) -> None:
    program = tmp_path / "kcm"
    program.write_bytes(built.read_bytes())
    program.chmod(0o755)
    agent(tmp_path / "agent.sock", OK)
    line = [program, "isolate", "--pool=infra", "env"]
    done = subprocess.run(line, env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=False)
    assert {"KCM_CPUS_ASSIGNED=3,11", "CMK_CPUS_ASSIGNED=3,11"} <= set(done.stdout.splitlines())


def test_the_socket_of_another_user_is_not_asked(launcher: Launcher, agent: Agents) -> None:
    fake = agent(launcher.socket, OK, uid=65532)
    done = launcher.run(*ISOLATE, CMK_LOCK_TIMEOUT="0.3")
    text = f"no cmk agent answered at {launcher.socket} within 0.3 s; the socket at {launcher.socket} belongs to user 65532 instead of root"
    assert (done.returncode, done.stdout, done.stderr) == (75, "", f"cmk: {text}\n")
    assert fake.requests == []


def test_the_agent_is_waited_for_beside_the_socket_of_another_user(launcher: Launcher, agent: Agents) -> None:
    strange = agent(launcher.socket, OK, uid=65534)

    def replace() -> None:
        new = launcher.socket.with_name("new")
        agent(new, OK)
        new.rename(launcher.socket)

    timer = threading.Timer(0.3, replace)
    timer.start()
    assert launcher.run(*ISOLATE).stdout == "ran\n"
    timer.join()
    assert strange.requests == []


def test_the_next_socket_is_asked_when_one_is_of_another_user(tmp_path: Path, built: Path, agent: Agents) -> None:
    (tmp_path / "conf").mkdir()
    program = tmp_path / "cmk"
    program.write_bytes(built.read_bytes())
    program.chmod(0o755)
    strange = agent(tmp_path / "agent.sock", OK, uid=65532)
    agent(tmp_path / "conf/agent.sock", OK)
    line = [program, "isolate", f"--conf-dir={tmp_path}/conf", *ISOLATE[1:]]
    done = subprocess.run(line, env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, strange.requests) == ("ran\n", "", [])


@pytest.mark.parametrize(("owner", "code"), [(0, 78), (65532, 75)])
def test_a_socket_that_cannot_be_connected_to(launcher: Launcher, agent: Agents, owner: int, code: int) -> None:
    agent(launcher.socket, OK)
    launcher.socket.chmod(0)
    os.chown(launcher.socket, owner, -1)
    launcher.command[:0] = ["setpriv", "--bounding-set=-all"]  # root without its right to ignore modes
    done = launcher.run(*ISOLATE, CMK_LOCK_TIMEOUT="0.3")
    assert (done.returncode, done.stdout) == (code, "")
    text = "may not connect to" if code == 78 else "belongs to user 65532 instead of root"
    assert text in done.stderr


@pytest.mark.parametrize("uid", [0, 65532])
def test_in_a_user_namespace_every_user_of_the_host_may_be_root(launcher: Launcher, agent: Agents, uid: int) -> None:
    agent(launcher.socket, OK, uid=uid)
    launcher.command[:0] = ["unshare", "--user"]
    assert launcher.run(*ISOLATE).stdout == "ran\n"


def test_in_a_user_namespace_that_shows_root_another_user_is_not_root(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, OK, uid=65532)
    launcher.command[:0] = ["unshare", "--user", "--map-root-user"]
    done = launcher.run(*ISOLATE, CMK_LOCK_TIMEOUT="0.3")
    assert (done.returncode, done.stdout) == (75, "")
    assert "belongs to user 65534 instead of root" in done.stderr


def test_a_full_queue_holds_nobody_beyond_the_deadline(launcher: Launcher) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as full:
        full.bind(str(launcher.socket))
        full.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
            first.connect(str(launcher.socket))
            done = launcher.run(*ISOLATE, CMK_LOCK_TIMEOUT="0.3")
    assert (done.returncode, done.stdout) == (75, "")
    assert "within 0.3 s" in done.stderr


def test_the_file_with_the_cpus_may_have_a_long_name(launcher: Launcher, agent: Agents) -> None:
    name = "x" * 60000
    agent(launcher.socket, f"cmk/1 ok\nCMK_STATE={name}".encode())
    done = launcher.run("isolate", "--pool=infra", "sh", "--", "-c", "echo $CMK_STATE")
    assert (done.stdout, done.stderr) == (f"{launcher.socket.parent}/{name}\n", "")
