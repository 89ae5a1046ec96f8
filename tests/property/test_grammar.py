"""Whatever the command line of ``isolate``, both launchers read it as CMK did; where CMK had a usage error, as written down here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmk.isolate.grammar import parse
from cmk.isolate.say import Failure
from tests.unit.launcher import conftest
from tests.unit.launcher.conftest import OK, FakeAgent, Launcher, launchers
from tests.unit.launcher.table import OPTIONS as TABLE

agent, built = conftest.agent, conftest.built

WITH_VALUE = [name for name, option in TABLE.items() if option.has_value]
FLAGS = [name for name, option in TABLE.items() if not option.has_value]
PROGRAMS = ("a", "b", "-", "--", "-x")
PLAIN = st.sampled_from(["a", "b", "a b", "", "-"])
OPTIONS = {
    "--pool": st.sampled_from([["--pool=infra"], ["--pool", "infra"], ["--po=infra"], ["--po", "--"]]),
    "--socket-id": st.sampled_from([["--socket-id=1"], ["--so", "-1"], ["--socket-id", "0"]]),
    "--no-affinity": st.sampled_from([["--no-affinity"], ["--no"]]),
    "--conf-dir": st.sampled_from([["--conf-dir=--"], ["--conf", "-x"]]),
    "--on-move": st.just(["--on-move=pinned"]),
    "--wait": st.just(["--wait"]),
}
# fmt: off
ODD = st.sampled_from([
    "-x", "-1", "--unknown", "--unknown=1", "--no-affinity=1", "--n", "--socket-id=x", "--pool=b", "--namespace", "--install-dir=/o",
])
# fmt: on


@dataclass
class Line:
    """A command line, read: cmk's options and everything else, one after the other, ``--`` among it."""

    options: dict[str, str] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)


class UsageError(Exception):
    pass


def option_of(word: str) -> str:
    """The option that a word is, by a prefix that fits no other; "" for an unknown one."""
    name = word.split("=", 1)[0]
    fits = [option for option in TABLE if option.startswith(name) and len(name) > 2]
    if len(fits) > 1 and name not in fits:
        raise UsageError
    return "" if not fits else name if name in fits else fits[0]


def read(argv: list[str]) -> Line:
    """cmk's options stand anywhere up to the first ``--``; ours alone: an unknown option after the command ends them as well."""
    line = Line()
    while argv:
        word, *argv = argv
        if not word.startswith("-") or word == "-":
            line.words.append(word)
        elif word == "--" or (not option_of(word) and line.words):
            line.words += [word, *argv]
            return line
        else:
            name, joined, value = option_of(word), "=" in word, word.partition("=")[2]
            if not name or name in line.options or (name in FLAGS and joined) or (name in WITH_VALUE and not joined and not argv):
                raise UsageError
            if name in WITH_VALUE and not joined:
                value, *argv = argv
            line.options[name] = value
    return line


def expected(argv: list[str]) -> Line:
    """``isolate [options] --pool=<pool> <command> [-- <args> ...]``: a ``--`` is cmk's directly after the command only.

    CMK took ``--`` before the command for the command; here it is cmk's, the only one of the line, and the words after it are run.
    """
    line = read(argv)
    if line.words[:1] == ["--"]:
        line.words = line.words[1:]
    elif line.words[1:2] == ["--"]:
        line.words = [line.words[0], *line.words[2:]]
    number = line.options.get("--socket-id", "-1")
    if "--pool" not in line.options or not line.words or not number.removeprefix("-").isdigit():
        raise UsageError
    return line


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """The usage's words in any order, with a pool up to the first ``--``, as nearly all lines have it; sometimes an odd word."""
    parts = [[word] for word in draw(st.lists(PLAIN, max_size=4))] + [["--"]] * draw(st.integers(0, 3))
    parts += [draw(OPTIONS[name]) for name in draw(st.sets(st.sampled_from(sorted(OPTIONS.keys() - {"--pool"})), max_size=2))]
    if draw(st.integers(0, 3)) == 0:
        parts.append([draw(ODD)])
    parts = list(draw(st.permutations(parts)))
    first = parts.index(["--"]) if ["--"] in parts else len(parts)
    parts.insert(draw(st.integers(0, first)), draw(OPTIONS["--pool"]))
    return [word for part in parts for word in part]


@given(lines())
@settings(max_examples=2000, deadline=None)
def test_a_line_means_what_it_meant_to_cmk(argv: list[str]) -> None:
    try:
        wanted = expected(list(argv))
    except UsageError:
        with pytest.raises(Failure):
            parse(argv)
    else:
        assert parse(argv) == (wanted.options, wanted.words)


@given(lines())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_gets_its_words_from_both_launchers(two: tuple[FakeAgent, list[Launcher], str], argv: list[str]) -> None:
    fake, both, path = two
    for launcher in both:
        fake.requests.clear()
        done = launcher.run("isolate", *argv, PATH=path)
        try:
            wanted = expected(list(argv))
        except UsageError:
            assert (done.returncode, done.stdout, fake.requests) == (78, "", [])
            continue
        program, *args = wanted.words
        if program in PROGRAMS:
            assert (done.returncode, done.stdout.split("\0")) == (0, [program, *args, ""])
        else:
            assert (done.returncode, done.stdout) == (127, "")
        (request,) = fake.requests
        assert request["pool"] == wanted.options["--pool"]
        assert request["socket"] == wanted.options.get("--socket-id", "-1")
        assert request["affinity"] == str(int("--no-affinity" not in wanted.options))


@pytest.fixture
def two(tmp_path: Path, built: Path, agent: Callable[..., FakeAgent]) -> tuple[FakeAgent, list[Launcher], str]:
    """Both launchers, one agent, and a PATH on which some programs tell their names and arguments."""
    for name in PROGRAMS:
        (tmp_path / name).write_text('#!/bin/sh\nprintf "%s\\0" "${0##*/}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    return agent(tmp_path / "agent.sock", OK), launchers(tmp_path, built), str(tmp_path)
