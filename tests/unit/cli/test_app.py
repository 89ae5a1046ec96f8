from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from cmk import __version__
from cmk.cli import logs
from cmk.cli.app import app
from cmk.isolate import launch

AGENT = ["agent", "--node-name=n", "--namespace=ns", "--config=c", "--hosts-prefix=h"]


def test_version() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"cmk {__version__}\n")


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["agent", "--help"], []])
def test_help(args: list[str]) -> None:
    assert "Usage: " in CliRunner().invoke(app, args).output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["agent"], "Missing option '--node-name' (env var: 'NODE_NAME')"),
        ([*AGENT, "--log-level=loud"], "Invalid value for --log-level: 'loud' is not a valid log level; use CRITICAL"),
        ([*AGENT, "--require-request=maybe"], "'maybe' is not one of 'enforce', 'warn'"),
        (["nonsense"], "No such command 'nonsense'"),
    ],
)
def test_bad_input(args: list[str], message: str) -> None:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.parametrize(
    "words",
    [
        ["--pool=infra", "tool", "a", "--", "b"],
        ["--pool=infra", "tool", "--", "--pool=b"],
        ["--pool=infra", "--", "tool", "--", "b"],
        ["tool", "--no-affinity", "--pool", "infra", "--", "", "-h"],
        ["--po=infra", "tool", "-x"],
        ["--help"],
    ],
)
def test_isolate_passes_its_words_on(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    passed = []
    monkeypatch.setattr(launch, "main", lambda argv: passed.append(argv) or 7)
    assert CliRunner().invoke(app, ["isolate", *words]).exit_code == 7
    assert passed == [words]


def test_the_agent_needs_a_pod_to_run_in() -> None:
    done = subprocess.run([sys.executable, "-m", "cmk", *AGENT], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cmk agent: not in a pod with a service account: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_a_json_line_is_one_object(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    root.handlers.clear()  # pytest's own
    logs.configure("info", logs.Format.JSON)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("cmk.x").exception('said "%s"', "this")
    (line,) = capsys.readouterr().err.splitlines()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "cmk.x", 'said "this"')
    assert "ValueError: two\nlines" in entry["exception"]


@pytest.mark.parametrize("kind", list(logs.Format))
def test_text_of_strangers_begins_no_line_and_controls_no_terminal(
    root: logging.Logger, capsys: pytest.CaptureFixture[str], kind: logs.Format
) -> None:
    root.handlers.clear()
    logs.configure("info", kind)
    forged = "pool \x1b[2J\x00\u202e\n2026-01-01 00:00:00,000 INFO cmk.agent: forged"
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("cmk.x").exception("refused: %s", forged)
    said = capsys.readouterr().err
    assert all(line.isprintable() for line in said.splitlines())
    assert not any(line.startswith("2026-01-01") for line in said.splitlines())
    assert "x1b[2J" in said


@pytest.mark.parametrize(("level", "seen"), [("DEBUG", True), ("info", False)])
def test_levels(root: logging.Logger, capsys: pytest.CaptureFixture[str], level: str, seen: bool) -> None:
    root.handlers.clear()
    logs.configure(level, logs.Format.TEXT)
    logging.getLogger("cmk.x").debug("detail")
    assert ("detail" in capsys.readouterr().err) is seen


def test_a_level_that_is_none() -> None:
    with pytest.raises(typer.BadParameter, match="'loud' is not a valid log level"):
        logs.configure("loud", logs.Format.TEXT)
