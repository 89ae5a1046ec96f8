"""Both launchers read the options and variables of ``cmk isolate`` as the table says: one by one, and in any combination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.launcher.conftest import OK, FakeAgent, Launcher, launchers
from tests.unit.launcher.table import BAD_REPLIES, DEFAULT, ODD_REPLIES, OPTIONS, SHORTEST, VARIABLES

Agents = Callable[..., FakeAgent]
ECHO = ("sh", "--", "-c", "echo $KCM_CPUS_ASSIGNED")


def cases(rules: dict[str, object], kind: str) -> list[tuple[str, str]]:
    return [(name, value) for name, rule in rules.items() for value in getattr(rule, kind)]


def id_of(value: str | bytes) -> str:
    if isinstance(value, bytes):
        return repr(value[:24])
    return repr(value if len(value) < 20 else f"{value[:6]}...{value[-1]}")


def pool_and(name: str, words: list[str]) -> list[str]:
    return words if name == "--pool" else ["--pool=infra", *words]


@pytest.mark.parametrize(("name", "value"), cases(OPTIONS, "good"), ids=id_of)
def test_an_option(launcher: Launcher, agent: Agents, name: str, value: str) -> None:
    fake = agent(launcher.socket, OK)
    spellings = OPTIONS[name].spellings(name, value, len(name))
    for words in spellings:
        done = launcher.run("isolate", *pool_and(name, words), "true")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = {"": "cmk/1 isolate", **DEFAULT, **OPTIONS[name].good[value]}
    assert [{**request, "timeout": ""} for request in fake.requests] == [{**expected, "timeout": ""}] * len(spellings)


@pytest.mark.parametrize(("name", "value"), cases(OPTIONS, "bad"), ids=id_of)
def test_a_value_of_an_option_that_is_refused(launcher: Launcher, name: str, value: str) -> None:
    done = launcher.run("isolate", *pool_and(name, [f"{name}={value}"]), "true")
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"cmk: {shown(OPTIONS[name].bad[value])}\n")


@pytest.mark.parametrize(("name", "value"), cases(VARIABLES, "bad"), ids=id_of)
def test_a_value_of_a_variable_that_is_refused(launcher: Launcher, name: str, value: str) -> None:
    done = launcher.run("isolate", "--pool=infra", "true", **{f"CMK_{name}": value})
    assert (done.returncode, done.stdout, done.stderr) == (78, "", f"cmk: {shown(VARIABLES[name].bad[value])}\n")


@pytest.mark.parametrize("reply", BAD_REPLIES, ids=id_of)
def test_a_reply_that_is_none(launcher: Launcher, agent: Agents, reply: bytes) -> None:
    agent(launcher.socket, reply)
    code, text = BAD_REPLIES[reply]
    line = f"cmk: {text.format(launcher.socket)}\n".encode("utf-8", "surrogateescape")
    for command in (("isolate", "--pool=infra", "echo", "ran"), ("describe",)):
        done = launcher.run_raw(*command)
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", line)


@pytest.mark.parametrize("reply", ODD_REPLIES, ids=id_of)
def test_a_reply_with_odd_lines(launcher: Launcher, agent: Agents, reply: bytes) -> None:
    agent(launcher.socket, reply)
    environment = launcher.environment()
    done = launcher.run_raw("isolate", "--pool=infra", "env")
    before = {f"{name}={value}".encode() for name, value in environment.items()}
    assert (done.returncode, set(done.stdout.splitlines()) - before) == (0, ODD_REPLIES[reply])


def shown(text: str) -> str:
    """As a line shows it: without control characters, and not longer than a line may be."""
    return "".join("?" if char < " " else char for char in text)[: 4094 - len("cmk: ")]


@dataclass
class Start:
    """One start of a launcher, and what it must lead to: the text of the refusal or the fields of the request."""

    program: str
    words: list[str]
    variables: dict[str, str]
    refusal: str
    asked: dict[str, str]
    seconds: float


@st.composite
def starts(draw: st.DrawFn) -> Start:
    """Any options, spelled in any way, with any values of the variables; few values are bad, for one hides what comes after it."""
    names = ["--pool", *draw(st.lists(st.sampled_from(sorted(OPTIONS.keys() - {"--pool", "--help"})), max_size=3, unique=True))]
    words: list[str] = []
    asked, refusals = dict(DEFAULT), {}
    for name in draw(st.permutations(names)):
        option = OPTIONS[name]
        values = option.bad if option.bad and draw(st.integers(0, 9)) == 0 else option.good
        value = draw(st.sampled_from(sorted(values)))
        words += draw(st.sampled_from(option.spellings(name, value, SHORTEST[name])))
        asked |= option.good.get(value, {})
        if value in option.bad:
            refusals[name] = option.bad[value]
    variables, meant = {}, {}
    for name, variable in VARIABLES.items():
        valid = st.sampled_from(["", *variable.good])
        anything = st.one_of(st.none(), valid, valid, st.sampled_from(sorted(variable.bad)))
        values = {prefix + name: text for prefix in ("CMK_", "KCM_") if (text := draw(anything)) is not None}
        variables |= values
        text = values.get(f"CMK_{name}") or values.get(f"KCM_{name}") or ""
        meant[name] = variable.good.get(text, variable.default)
        if text in variable.bad:
            refusals[name] = variable.bad[text]
    asked["cores"] = str(meant["NUM_CORES"])
    first = next((name for name in ("--socket-id", "--pool", "--on-move", *VARIABLES) if name in refusals), "")
    refusal = refusals[first] if first else ""
    return Start(draw(st.sampled_from(["cmk", "kcm"])), words, variables, refusal, asked, meant["LOCK_TIMEOUT"])


@given(starts())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_all_together(two: tuple[FakeAgent, dict[str, list[Launcher]]], start: Start) -> None:
    fake, named = two
    for launcher in named[start.program]:
        fake.requests.clear()
        environment = {"PATH": launcher.environment()["PATH"], "CMK_SOCKET": str(launcher.socket), **start.variables}
        done = launcher.run("isolate", *start.words, *ECHO, env=environment)
        if start.refusal:
            assert (done.returncode, done.stdout, done.stderr) == (78, "", f"{start.program}: {shown(start.refusal)}\n")
            assert fake.requests == []
            continue
        assert (done.returncode, done.stdout, done.stderr) == (0, "3,11\n" if start.program == "kcm" else "\n", "")
        (request,) = fake.requests
        milliseconds = int(request.pop("timeout"))
        assert request == {"": "cmk/1 isolate", **start.asked}
        assert start.seconds * 500 < milliseconds <= start.seconds * 1000


@pytest.fixture
def two(tmp_path: Path, built: Path, agent: Agents) -> tuple[FakeAgent, dict[str, list[Launcher]]]:
    """Both launchers under both names, and one agent for all."""
    return agent(tmp_path / "agent.sock", OK), {name: launchers(tmp_path, built, name) for name in ("cmk", "kcm")}


@pytest.mark.parametrize("command", [("isolate", "--pool=infra", "true"), ("describe",), ("node-report",)])
@pytest.mark.parametrize("program", ["cmk", "kcm"])
def test_each_name_has_its_directory(tmp_path: Path, built: Path, program: str, command: tuple[str, ...]) -> None:
    for launcher in launchers(tmp_path, built, program):
        done = launcher.run(*command, env={"PATH": "/bin:/usr/bin", "CMK_LOCK_TIMEOUT": "0.001"})
        assert done.returncode == 75
        assert done.stderr.startswith(f"{program}: no cmk agent answered at ")
        assert done.stderr.endswith(f"/etc/{program}/agent.sock, /run/cmk/agent.sock within 0.001 s\n")


@pytest.mark.parametrize(("cmk", "kcm"), [("agent.sock", ""), ("", "agent.sock"), ("agent.sock", "nowhere")])
def test_a_socket_that_a_variable_names(launcher: Launcher, agent: Agents, cmk: str, kcm: str) -> None:
    agent(launcher.socket, OK)
    paths = {f"{prefix}_SOCKET": f"{launcher.socket.parent}/{name}" for prefix, name in (("CMK", cmk), ("KCM", kcm)) if name}
    done = launcher.run("isolate", "--pool=infra", "true", env={"PATH": "/bin:/usr/bin", "CMK_SOCKET": "", **paths})
    assert (done.returncode, done.stderr) == (0, "")
