"""The options and variables of ``cmk isolate``: what the request says for each value, and which values are refused; and odd replies."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT = {"pool": "infra", "cores": "1", "socket": "-1", "affinity": "1", "on-move": ""}
DEFAULT_SECONDS = 30.0
SEE = "; see cmk isolate --help"
LONG = "x" * 254
# What Python's int() and C's strtol() take for a number, each in its own way, and is none here.
ODD_NUMBERS = ("+1", " 1", "1 ", "\t1", "1_0", "0x10", "1e1", "\u0661", "x", "1x", "-", "--1", "0" * 5000 + "x", "9" * 5000)


@dataclass(frozen=True)
class Option:
    """``good`` maps a value to the fields of the request that differ from the default, ``bad`` to the text of the refusal."""

    good: dict[str, dict[str, str]]
    bad: dict[str, str] = field(default_factory=dict)
    has_value: bool = True

    def spellings(self, name: str, value: str, shortest: int) -> list[list[str]]:
        """The ways to write the option, by every prefix of its name that has at least ``shortest`` characters."""
        names = [name[:length] for length in range(shortest, len(name) + 1)]
        if not self.has_value:
            return [[each] for each in names]
        return [words for each in names for words in ([f"{each}={value}"], [each, value])]


OPTIONS = {
    "--pool": Option(
        {name: {"pool": name} for name in ("infra", "exclusive-non-isolcpus", "--", "-x", "ä", LONG[1:])},
        {value: f"--pool={value[:40]} is not a valid pool name{SEE}" for value in ("", "a=b", "a b", "\ta", "a\nb", LONG)},
    ),
    "--socket-id": Option(
        {value: {"socket": value.lstrip("0") or "0"} for value in ("-1", "0", "1", "65535", "007", "0" * 5000 + "1")},
        {
            value: f"--socket-id={value} is not a valid socket number; -1 means any{SEE}"
            for value in ("", "-2", "-0", "-01", "65536", *ODD_NUMBERS)
        },
    ),
    "--conf-dir": Option({value: {} for value in ("/etc/kcm", "/x y", "--", "-x", "", LONG)}),
    "--namespace": Option({"default": {}}),
    "--install-dir": Option({"/opt/bin": {}}),
    "--no-affinity": Option({"": {"affinity": "0"}}, has_value=False),
    "--on-move": Option(
        {value: {"on-move": value} for value in ("follow", "pinned", "notify", "notify:SIGHUP", "")},
        {
            value: f"--on-move={value[:40]} is none of follow, pinned, notify, notify:SIGNAL{SEE}"
            for value in ("a=b", "a b", LONG)
        },
    ),
    "--wait": Option({"": {}}, has_value=False),
    "--help": Option({}, has_value=False),
}
# Characters of the shortest unique prefix.
SHORTEST = {"--namespace": 4, "--no-affinity": 4} | {
    name: next(length for length in range(3, 9) if sum(other.startswith(name[:length]) for other in OPTIONS) == 1)
    for name in OPTIONS
}


@dataclass(frozen=True)
class Variable:
    """Of CMK_name, or of KCM_name where that is unset or empty: what a valid value means, and the text that refuses another one."""

    good: dict[str, float]
    bad: dict[str, str]
    default: float


VARIABLES = {
    "NUM_CORES": Variable(
        {"1": 1, "3": 3, "007": 7, "65536": 65536, "0" * 5000 + "2": 2},
        {
            value: f'CMK_NUM_CORES is "{value[:40]}": it must be a whole number of CPU lists, 1 to 65536'
            for value in ("0", "-1", "1.5", "65537", " ", *ODD_NUMBERS)
        },
        1,
    ),
    "LOCK_TIMEOUT": Variable(
        {"60": 60, "0120": 120, "240.": 240, "480.125": 480.125, "86400": 86400},
        {
            value: f'CMK_LOCK_TIMEOUT is "{value[:40]}": it must be a number of seconds, 0.001 to 86400'
            for value in ("0", "-1", ".", "1.2.3", "1,5", "nan", "inf", "infinity", "0.0009", "86400.1", " ", *ODD_NUMBERS)
        },
        DEFAULT_SECONDS,
    ),
}

_DAMAGED = (75, "the answer of the agent at {} has a NUL byte, or more than 65536 bytes; try again")
# What is no reply: the exit code and the line, with the path of the socket for {}.
BAD_REPLIES: dict[bytes, tuple[int, str]] = {
    b"cmk/1 ok\nCMK_CPUS_ASSIGNED=3\0,11": _DAMAGED,
    b"cmk/1 ok\nCMK_CPUS\0_ASSIGNED=3,11": _DAMAGED,
    b"cmk/1 ok\nCMK_CPUS_ASSIGNED=3,11\0": _DAMAGED,
    b"cmk/1 error 78\nno\0": _DAMAGED,
    b"\0": _DAMAGED,
    b"cmk/1 ok\nCMK_CPUS_ASSIGNED=" + b"1," * 32768: _DAMAGED,
    **{
        reply: (78, f'the agent answered "{shown}", which this launcher does not understand')
        for reply, shown in (
            (b"cmk/2 ok", "cmk/2 ok"),
            (b"cmk/1 okay", "cmk/1 okay"),
            (b"cmk/1 error 1\nwhat", "cmk/1 error 1"),
            (b"cmk/1 error 99999999999\n", "cmk/1 error 99999999999"),
            (b"cmk/1 error", "cmk/1 error"),
            (b"\n\n", ""),
            (b"\x1b[31m\xff", "?[31m\udcff"),
        )
    },
}
# Replies with odd lines, and what the workload finds in its environment.
ODD_REPLIES: dict[bytes, set[bytes]] = {
    b"cmk/1 ok": set(),
    b"cmk/1 ok\n\n\n": set(),
    b"cmk/1 ok\n=\nCMK_X\n=x\nLD_PRELOAD=/x.so\ncmk_Y=1": set(),
    b"cmk/1 ok\nCMK_X=\xff\xfe\xc2": {b"CMK_X=\xff\xfe\xc2"},
    b"cmk/1 ok\nCMK_\x1b\xff=a=b": {b"CMK_\x1b\xff=a=b"},
    b"cmk/1 ok\nCMK_=\nCMK_X=1\nCMK_X=2": {b"CMK_=", b"CMK_X=2"},
    b"cmk/1 ok\nCMK_X=" + b"x" * 65521: {b"CMK_X=" + b"x" * 65521},
}
