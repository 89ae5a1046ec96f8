"""The protocol between launcher and agent, version ``cmk/1``: one request, one reply, lines of text.

A reply is one packet; to ``Show`` it is a head, and packets of text follow. The agent must understand every version that was ever shipped,
for a launcher lives as long as its pod. Launchers of any age ignore keys that they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from cmk.model.errors import CmkError
from cmk.model.pods import MOST_CORES
from cmk.model.printable import printable

VERSION = "cmk/1"
MAX_REQUEST = 4096
LATER, NEVER = 75, 78  # EX_TEMPFAIL, EX_CONFIG
MOST_SOCKETS = 65535
_MAX_TIMEOUT = 3600.0
_MOST_OF_A_NAME = 253  # characters: the longest name of an object in Kubernetes
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")
_LONGER_NUMBER = re.compile(r"\+?[0-9]+")


class WireError(CmkError):
    """A request that cannot be read."""


class Isolate(msgspec.Struct, frozen=True):
    """``cmk isolate``: pool, number of lists, socket (-1 any), whether to pin, and how many seconds the client waits.

    ``on_move`` is what it says about changes of its CPUs, None from a launcher that knows nothing of them.
    """

    pool: str
    cores: int = 1
    socket: int = -1
    affinity: bool = True
    timeout: float = 30.0
    on_move: str | None = None


class Show(msgspec.Struct, frozen=True):
    """A read-only request: ``describe`` or ``node-report``; ``old_names``: the launcher was called ``kcm``, whose names pools get then."""

    what: str
    old_names: bool = False


def parse(data: bytes) -> Isolate | Show:
    """Read a request; raises WireError. Unknown keys are ignored, so that newer launchers can say more."""
    if len(data) > MAX_REQUEST:
        raise WireError(f"request is longer than {MAX_REQUEST} bytes")
    try:
        head, *lines = data.decode().splitlines()
    except (UnicodeDecodeError, ValueError) as error:
        raise WireError("request is empty or not UTF-8") from error
    version, _, verb = head.partition(" ")
    if version != VERSION:
        raise WireError(f"protocol {version[:20]!r} is not spoken here, only {VERSION}")
    fields = dict(line.partition("=")[::2] for line in lines)
    if verb in {"describe", "node-report"}:
        return Show(verb, old_names=fields.get("names") == "kcm")
    if verb != "isolate":
        raise WireError(f"unknown request {verb[:20]!r}")
    pool = fields.get("pool")
    if not pool:
        raise WireError("request names no pool")
    if len(pool) > _MOST_OF_A_NAME:
        raise WireError(f"pool={pool[:20]!r}... is longer than the name of a pool can be, {_MOST_OF_A_NAME} characters")
    return Isolate(
        pool=pool,
        cores=_int(fields, "cores", 1, -MOST_CORES, MOST_CORES),  # below 1 the rules refuse it, as they do in direct mode
        socket=_int(fields, "socket", -1, -1, MOST_SOCKETS),
        affinity=fields.get("affinity", "1") != "0",
        timeout=_seconds(fields),
        on_move=fields.get("on-move"),
    )


def ok(environment: Mapping[str, str]) -> bytes:
    """The reply that lets the launcher go on, with the variables to set."""
    return "\n".join([f"{VERSION} ok", *(f"{name}={value}" for name, value in environment.items())]).encode()


def show_head(length: int) -> bytes:
    """The first packet of the reply to ``Show``: ``length`` bytes of text follow. A launcher that gets fewer knows that it broke off."""
    return f"{VERSION} ok\nlength={length}".encode()


def refusal(code: int, text: str) -> bytes:
    """The reply that makes the launcher print ``text`` and exit with ``code`` (LATER or NEVER)."""
    return f"{VERSION} error {code}\n{printable(' '.join(text.split()))}".encode()


def _int(fields: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = fields.get(name)
    if text is None:
        return default
    if not _NUMBER.fullmatch(text):
        raise WireError(f"{name}={text[:20]!r} is not a whole number of at most 9 digits")
    number = int(text)
    if not least <= number <= most:
        raise WireError(f"{name}={number} is not between {least} and {most}")
    return number


def _seconds(fields: Mapping[str, str]) -> float:
    """How long the client waits. Launchers send what their user wrote, however long: beyond the most it is the most."""
    text = fields.get("timeout", "30000")
    if len(text) > 9 and _LONGER_NUMBER.fullmatch(text):
        return _MAX_TIMEOUT
    milliseconds = _int({"timeout": text}, "timeout", 0, -(10**9), 10**9)
    return min(max(milliseconds / 1000, 0.0), _MAX_TIMEOUT)
