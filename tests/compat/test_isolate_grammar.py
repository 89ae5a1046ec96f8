"""The command line of ``isolate``: what docopt made of it in kcm 0.6 to CMK 1.5.2, and what is read here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmk.isolate.grammar import parse
from cmk.isolate.say import Failure

E = ["--pool=exclusive"]


@pytest.mark.parametrize(
    ("argv", "command", "upstream"),
    [
        ([*E, "sleep", "--", "10"], ["sleep", "10"], "the documented form"),
        ([*E, "sleep", "10"], ["sleep", "10"], "the same"),
        ([*E, "sh", "--", "-c", "a"], ["sh", "-c", "a"], "the same"),
        ([*E, "sh", "-c", "a"], ["sh", "-c", "a"], "a usage error"),
        ([*E, "--", "sh", "-c", "a"], ["sh", "-c", "a"], "ran a program named --"),
        ([*E, "sleep 10"], ["sleep 10"], "a shell's line up to 1.4.1, no such file in 1.5 and here"),
        ([*E, "sleep", "--", "10", "--no-affinity"], ["sleep", "10", "--no-affinity"], "the same"),
        ([*E, "sleep", "--no-affinity", "--", "10"], ["sleep", "10"], "the same, the option is ours"),
        ([*E, "sleep", "--", "--", "10"], ["sleep", "--", "10"], "the same"),
        ([*E, "sleep", "--"], ["sleep"], "the same"),
        ([*E, "tool", "a", "--", "b"], ["tool", "a", "--", "b"], "the same, only directly after the command it is ours"),
        ([*E, "tool", "a", "--"], ["tool", "a", "--"], "the same"),
        ([*E, "tool", "", "--", "b"], ["tool", "", "--", "b"], "the same, an empty word is a word"),
        ([*E, "tool", "-", "--", "b"], ["tool", "-", "--", "b"], "the same"),
        (
            [*E, "tool", "a", "--", "--no-affinity"],
            ["tool", "a", "--", "--no-affinity"],
            "the same, whosever it is it ends options",
        ),
        ([*E, "tool", "a", "--no-affinity", "--", "b"], ["tool", "a", "--", "b"], "the same"),
        ([*E, "tool", "a", "--", "b", "--", "c"], ["tool", "a", "--", "b", "--", "c"], "the same"),
        ([*E, "tool", "-x", "--", "b"], ["tool", "-x", "--", "b"], "a usage error"),
        ([*E, "--", "tool", "--", "b"], ["tool", "--", "b"], "ran a program named --"),
        ([*E, "", "--", "b"], ["", "b"], "the same"),
        (["--conf-dir", "--", *E, "tool", "--", "b"], ["tool", "b"], "the same, that is a value"),
        (["--pool", "exclusive", "sleep"], ["sleep"], "the same"),
        (["--po=exclusive", "sleep"], ["sleep"], "the same"),
        (["sleep", "--pool=exclusive"], ["sleep"], "the same"),
        (["--conf-dir=/etc/kcm", *E, "sleep"], ["sleep"], "up to 1.4.1"),
        (["--namespace=default", *E, "sleep"], ["sleep"], "1.5.2"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_each_form(argv: list[str], command: list[str], upstream: str) -> None:
    options, words = parse(argv)
    assert (options["--pool"], words) == ("exclusive", command)


@pytest.mark.parametrize("argv", [["sleep"], ["--pool=x"], ["--pool"], ["--pool=x", "--unknown", "sleep"]])
def test_what_upstream_refused_is_refused(argv: list[str]) -> None:
    with pytest.raises(Failure):
        parse(argv)


WORD = st.text(st.characters(codec="ascii", exclude_characters="-\0"), min_size=1, max_size=6)
ANY = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=6)
VALUES = {
    "--pool": st.sampled_from(["exclusive", "shared", "infra", "exclusive-non-isolcpus"]),
    "--socket-id": st.sampled_from(["-1", "0", "1"]),
    "--conf-dir": st.sampled_from(["/etc/cmk", "/x y"]),
    "--no-affinity": st.none(),
}
# Unambiguous ways to shorten each option.
SHORT = {"--pool": 3, "--socket-id": 3, "--conf-dir": 3, "--no-affinity": 4}


@st.composite
def lines(draw: st.DrawFn) -> tuple[list[str], dict[str, str], list[str]]:
    """isolate [options] --pool=<pool> <command> [-- <args> ...], options anywhere before the first ``--``, arguments also without one."""
    chosen = {"--pool": draw(VALUES["--pool"])}
    for name in draw(st.lists(st.sampled_from(["--socket-id", "--conf-dir", "--no-affinity"]), unique=True)):
        chosen[name] = draw(VALUES[name]) or ""
    options = []
    for name, value in chosen.items():
        spelled = name[: draw(st.integers(SHORT[name], len(name)))]
        if name == "--no-affinity":
            options.append([spelled])
        else:
            options.append(draw(st.sampled_from([[f"{spelled}={value}"], [spelled, value]])))
    command = [draw(WORD), *draw(st.lists(WORD, max_size=2))]
    parts = draw(st.permutations([*options, *[None] * len(command)]))
    words = iter(command)
    argv = [word for part in parts for word in (part if part is not None else [next(words)])]
    args = draw(st.lists(ANY, max_size=3))
    if not args and draw(st.booleans()):
        return argv, chosen, command
    return [*argv, "--", *args], chosen, [*command, *(["--"] if command[1:] else []), *args]


@given(lines())
def test_whatever_the_usage_allows_is_read_as_it_says(line: tuple[list[str], dict[str, str], list[str]]) -> None:
    argv, options, command = line
    assert parse(argv) == (options, command)
