"""``describe`` and ``node-report``: arguments, and the agent's answer on standard output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.launcher.conftest import FakeAgent, Launcher

Agents = Callable[..., FakeAgent]


def test_a_long_description_arrives_whole(launcher: Launcher, agent: Agents) -> None:
    body = [bytes([65 + number % 26]) * 60000 for number in range(5)]
    fake = agent(launcher.socket, [b"cmk/1 ok", *body])
    done = launcher.run("describe")
    assert (done.returncode, done.stdout.encode()) == (0, b"".join(body))
    assert fake.requests[0][""] == "cmk/1 describe"


@pytest.mark.parametrize("command", ["describe", "node-report"])
@pytest.mark.parametrize("spelling", ["--conf-dir={}", "--conf-dir {}"])
def test_the_directory_of_the_socket(launcher: Launcher, agent: Agents, tmp_path: Path, command: str, spelling: str) -> None:
    (tmp_path / "conf").mkdir()
    agent(tmp_path / "conf/agent.sock", [b"cmk/1 ok", b"{}"])
    environment = {key: value for key, value in launcher.environment().items() if key != "CMK_SOCKET"}
    done = launcher.run(command, *spelling.format(tmp_path / "conf").split(), env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{}", "")


@pytest.mark.parametrize("words", [("--interval=0",), ("--interval", "0")])
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
