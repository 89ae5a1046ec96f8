"""Where options end and the command begins: both launchers read these lines as written down here, and agree on random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.launcher.conftest import OK, FakeAgent, Launcher, launchers
from tests.unit.launcher.table import DEFAULT


@pytest.mark.parametrize(
    ("line", "asked", "printed"),
    [
        ("--pool=infra echo -- a b", {}, "a b"),
        ("--pool infra echo -- a b", {}, "a b"),
        ("--conf-dir=/etc/cmk --pool=infra echo -- a", {}, "a"),
        ("echo --pool=infra -- a", {}, "a"),
        ("echo a --pool=infra", {}, "a"),
        ("--pool=infra -- echo a --pool=x", {}, "a --pool=x"),
        ("--pool=infra echo -n a", {}, "a"),
        ("--pool=infra echo -- -- a", {}, "-- a"),
        ("--pool=infra echo a -- b", {}, "a -- b"),
        ("--pool=infra echo a --", {}, "a --"),
        ("--pool=infra echo a -- b -- c", {}, "a -- b -- c"),
        ("--pool=infra -- echo -- a", {}, "-- a"),
        ("--pool=infra -- echo a -- b", {}, "a -- b"),
        ("--pool=infra echo --no-affinity -- a", {"affinity": "0"}, "a"),
        ("--pool=infra echo a --no-affinity -- b", {"affinity": "0"}, "a -- b"),
        ("--pool=infra echo a -- --no-affinity", {}, "a -- --no-affinity"),
        ("--pool=infra echo a -x -- b", {}, "a -x -- b"),
        ("--pool -- echo -- a", {"pool": "--"}, "a"),
        ("--pool=infra echo a -x --socket-id=1", {}, "a -x --socket-id=1"),
        ("--pool=infra --no-affinity echo", {"affinity": "0"}, ""),
        ("--pool=infra --no-aff echo", {"affinity": "0"}, ""),
        ("--po=infra --socket-id=1 echo", {"socket": "1"}, ""),
        ("--pool=infra --socket-id=-1 echo", {}, ""),
        ("--pool=infra --socket-id 0 echo", {"socket": "0"}, ""),
        ("--pool=infra --namespace=x --install-dir=/opt/bin echo a", {}, "a"),
        ("--pool=exclusive-non-isolcpus echo", {"pool": "exclusive-non-isolcpus"}, ""),
        ("--pool=infra --wait echo a", {}, "a"),
        ("--pool=infra --on-move=pinned echo a", {"on-move": "pinned"}, "a"),
        ("--pool=infra --on-move notify:SIGHUP echo a", {"on-move": "notify:SIGHUP"}, "a"),
        ("--pool=infra echo - a", {}, "- a"),
    ],
)
def test_accepted(launcher: Launcher, agent: Callable[..., FakeAgent], line: str, asked: dict[str, str], printed: str) -> None:
    fake = agent(launcher.socket, OK)
    done = launcher.run("isolate", *line.split())
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, printed, "")
    (request,) = fake.requests
    assert 0 < int(request.pop("timeout")) <= 20000
    assert request == {"": "cmk/1 isolate", **DEFAULT, **asked}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "--pool is missing"),
        ("echo", "--pool is missing"),
        ("--pool=infra", "no command to run"),
        ("--pool=infra --", "no command to run"),
        ("--pool", "--pool needs a value"),
        ("--pool=infra --pool=shared echo", "--pool is given twice"),
        ("--pool=infra --no-affinity=1 echo", "--no-affinity takes no value"),
        ("--pool=infra --nosuch echo", "unknown option --nosuch"),
        ("--pool=infra -x echo", "unknown option -x"),
        ("--pool=infra --n echo", "option --n could be --namespace or --no-affinity"),
    ],
)
def test_refused(launcher: Launcher, line: str, message: str) -> None:
    done = launcher.run("isolate", *line.split())
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.startswith(f"cmk: {message}")
    assert done.stderr.endswith("see cmk isolate --help\n")


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["printf", "[%s]", "", "--", "a"], "[][--][a]"),
        (["printf", "--", "[%s]", "", "a"], "[][a]"),
        (["--", "printf", "[%s]", "", "a"], "[][a]"),
    ],
)
def test_empty_words_are_words(launcher: Launcher, agent: Callable[..., FakeAgent], words: list[str], printed: str) -> None:
    agent(launcher.socket, OK)
    assert launcher.run("isolate", "--pool=infra", *words).stdout == printed


@pytest.mark.parametrize("args", [("isolate", "--help"), ("isolate", "-h"), ("isolate", "--pool=x", "--he", "--nonsense")])
def test_help(launcher: Launcher, args: tuple[str, ...]) -> None:
    done = launcher.run(*args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cmk isolate --pool=POOL [OPTIONS] COMMAND [-- ARGS...]\n")
    assert max(map(len, done.stdout.splitlines())) < 140


def test_help_is_the_same_in_both(tmp_path: Path, built: Path) -> None:
    assert len({launcher.run("isolate", "--help").stdout for launcher in launchers(tmp_path, built)}) == 1


# fmt: off
WORDS = st.sampled_from([
    "a", "b", "-", "--", "-x", "--unknown", "--pool=infra", "--pool",
    "--po=shared", "--socket-id=1", "--s", "--socket-id=x", "--no-affinity", "--no-affinity=1", "--n", "--wait",
    "--conf-dir=/c", "--namespace", "--install-dir=/o", "-1", "9", "--help=1", "",
])
# fmt: on


@given(st.lists(WORDS, max_size=7))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_both_agree(two: tuple[FakeAgent, list[Launcher], str], line: list[str]) -> None:
    fake, both, path = two
    outcomes = []
    for launcher in both:
        fake.requests.clear()
        done = launcher.run("isolate", *line, PATH=path)
        outcomes.append((done.returncode, done.stdout, done.stderr, [{**request, "timeout": ""} for request in fake.requests]))
    assert outcomes[0] == outcomes[1]


@pytest.fixture
def two(tmp_path: Path, built: Path, agent: Callable[..., FakeAgent]) -> tuple[FakeAgent, list[Launcher], str]:
    """Both launchers, one agent, and a PATH on which a, b and 9 tell their arguments."""
    for name in ("a", "b", "9"):
        (tmp_path / name).write_text('#!/bin/sh\necho "${0##*/}" "$#" "$@"\n')
        (tmp_path / name).chmod(0o755)
    return agent(tmp_path / "agent.sock", OK), launchers(tmp_path, built), str(tmp_path)
