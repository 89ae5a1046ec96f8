"""``describe`` and ``node-report``: arguments, and the agent's answer on standard output."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.launcher.conftest import FakeAgent, Launcher

Agents = Callable[..., FakeAgent]


def test_a_long_description_arrives_whole(launcher: Launcher, agent: Agents) -> None:
    body = [bytes([65 + number % 26]) * 60000 for number in range(5)]
    fake = agent(launcher.socket, [b"cmk/1 ok\nlength=300000", *body])
    done = launcher.run("describe")
    assert (done.returncode, done.stdout.encode()) == (0, b"".join(body))
    assert fake.requests[0][""] == "cmk/1 describe"


HALF = b'{"path": "/x", "poo'


@pytest.mark.parametrize("command", ["describe", "node-report"])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("came", [[], [HALF], [HALF, HALF]])
def test_an_answer_that_breaks_off_is_not_printed(
    launcher: Launcher, agent: Agents, command: str, came: list[bytes], reset: bool
) -> None:
    agent(launcher.socket, [b"cmk/1 ok\nlength=40", *came], reset=reset)
    done = launcher.run(command, CMK_LOCK_TIMEOUT="0.2")
    text = f"cmk: the answer of the agent at {launcher.socket} broke off after {19 * len(came)} of 40 bytes; try again\n"
    assert (done.returncode, done.stdout, done.stderr) == (75, "", text)


@pytest.mark.parametrize("came", [[], [HALF]])
def test_an_answer_that_breaks_off_is_asked_for_again(launcher: Launcher, agent: Agents, came: list[bytes]) -> None:
    fake = agent(launcher.socket, [b"cmk/1 ok\nlength=2", *came], [b"cmk/1 ok\nlength=2", b"{}"])
    done = launcher.run("describe")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}", "")
    assert len(fake.requests) == 2


def test_an_answer_that_stops_is_not_printed(launcher: Launcher) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(launcher.socket))
        listener.listen()
        with launcher.start("describe", CMK_LOCK_TIMEOUT="2") as process:
            client, _ = listener.accept()
            with client:
                client.send(b"cmk/1 ok\nlength=40")
                client.send(HALF)
                assert (process.communicate(timeout=60)[0], process.returncode) == ("", 75)


@pytest.mark.parametrize("body", [[b"{}"], [b"{", b"}"]])
def test_an_agent_that_says_no_length_is_read_to_its_end(launcher: Launcher, agent: Agents, body: list[bytes]) -> None:
    agent(launcher.socket, [b"cmk/1 ok", *body])
    done = launcher.run("describe")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}", "")


def test_a_reset_is_no_end_of_an_answer_without_length(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok", HALF], reset=True)
    done = launcher.run("describe", CMK_LOCK_TIMEOUT="0.2")
    text = f"cmk: the answer of the agent at {launcher.socket} broke off after 19 bytes; try again\n"
    assert (done.returncode, done.stdout, done.stderr) == (75, "", text)


def test_unknown_keys_of_an_answer_are_ignored(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok\nnews=1\nlength=2\nmore", b"{}"])
    done = launcher.run("describe")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}", "")


@pytest.mark.parametrize("command", ["describe", "node-report"])
@pytest.mark.parametrize("spelling", ["--conf-dir={}", "--conf-dir {}"])
def test_the_directory_of_the_socket(launcher: Launcher, agent: Agents, tmp_path: Path, command: str, spelling: str) -> None:
    (tmp_path / "conf").mkdir()
    agent(tmp_path / "conf/agent.sock", [b"cmk/1 ok", b"{}"])
    environment = {key: value for key, value in launcher.environment().items() if key != "CMK_SOCKET"}
    done = launcher.run(command, *spelling.format(tmp_path / "conf").split(), env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}", "")


@pytest.mark.parametrize("words", [("--interval=0",), ("--interval", "0"), (f"--interval={'0' * 5000}",)])
def test_one_report(launcher: Launcher, agent: Agents, words: tuple[str, ...]) -> None:
    agent(launcher.socket, [b"cmk/1 ok", b"{}"])
    done = launcher.run("node-report", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}", "")


@pytest.mark.parametrize("words", [("--interval=1",), ("--interval", "1")])
def test_a_report_every_second(launcher: Launcher, agent: Agents, words: tuple[str, ...]) -> None:
    agent(launcher.socket, [b"cmk/1 ok", b"{}\n"])
    with launcher.start("node-report", *words) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["{}\n", "{}\n"]


def test_reports_end_with_a_signal_that_also_the_first_process_of_a_container_gets(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok", b"{}\n"])
    with launcher.start("node-report", "--interval=1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "{}\n"
        process.terminate()
        assert process.wait(20) == 128 + signal.SIGTERM  # by a handler: otherwise it would be -SIGTERM


def test_publish_is_accepted_with_a_note(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok", b"{}"])
    done = launcher.run("node-report", "--publish")
    assert (done.returncode, done.stdout) == (0, "{}")
    assert done.stderr == "cmk: --publish means nothing here: the agent publishes by itself\n"


@pytest.mark.parametrize(
    "line",
    [
        "describe --publish",
        "describe --interval=1",
        "describe --conf-dir",
        "node-report --all",
        "node-report --interval",
        "node-report --interval=-1",
        "node-report --interval=x",
        "node-report --interval=+0",
        "node-report --interval=0_0",
        "node-report --interval=\u0660",
        "node-report --interval=1000000001",
        f"node-report --interval={'0' * 12}{10**12}",
        "node-report --intervals=1",
        "node-report --publish=1",
    ],
)
def test_arguments_that_are_refused(launcher: Launcher, line: str) -> None:
    done = launcher.run(*line.split())
    assert (done.returncode, done.stdout) == ({"python": 2, "c": 78}[launcher.language], "")  # typer has a code of its own
    assert line.split()[1].split("=", maxsplit=1)[0] in done.stderr


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("command", ["describe", "node-report"])
def test_help(launcher: Launcher, command: str, word: str) -> None:
    done = launcher.run(command, word)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--conf-dir" in done.stdout


@pytest.mark.parametrize("command", ["describe", "node-report"])
def test_called_kcm_the_static_launcher_asks_for_kcms_names(tmp_path: Path, built: Path, agent: Agents, command: str) -> None:
    program = tmp_path / "kcm"
    program.write_bytes(built.read_bytes())
    program.chmod(0o755)
    fake = agent(tmp_path / "agent.sock", [b"cmk/1 ok\nlength=2", b"{}"])
    done = subprocess.run([program, command], env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "{}")
    assert (fake.requests[0][""], fake.requests[0]["names"]) == (f"cmk/1 {command}", "kcm")


def test_an_answer_without_end_is_not_held(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok", *[b"x" * 60000] * 1200])
    done = launcher.run("describe")
    text = f"cmk: the answer of the agent at {launcher.socket} is longer than 67108864 bytes\n"
    assert (done.returncode, done.stdout, done.stderr) == (75, "", text)


def test_a_full_disk_is_no_success(launcher: Launcher, agent: Agents) -> None:
    agent(launcher.socket, [b"cmk/1 ok\nlength=2", b"{}"])
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*launcher.command, "describe"], env=launcher.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode != 0
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("args", [["describe"], ["node-report"]])
def test_a_closed_output_is_no_success(launcher: Launcher, agent: Agents, args: list[str]) -> None:
    agent(launcher.socket, [b"cmk/1 ok\nlength=2", b"{}"])
    line = ["sh", "-c", 'exec "$@" >&-', "sh", *launcher.command, *args]
    done = subprocess.run(line, env=launcher.environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "cmk: cannot write: Bad file descriptor\n")
