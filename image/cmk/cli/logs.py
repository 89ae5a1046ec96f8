"""The format of log lines on standard error: text for people, JSON for machines.

What strangers send gets into messages and tracebacks: no character of theirs reaches a terminal, or begins a line, as it is.
"""

from __future__ import annotations

import json
import logging
from enum import StrEnum
from types import TracebackType

import typer

from cmk.model.printable import printable

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Format(StrEnum):
    """The format of a log line."""

    TEXT = "text"
    JSON = "json"


class _TextFormatter(logging.Formatter):
    """One line for each record; the lines of a traceback are indented."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


class _JsonFormatter(logging.Formatter):
    """One JSON object for each record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def level_of(name: str, place: str) -> int:
    """The number of a level; exits with a line that names the option or variable (``place``) when the name is not valid."""
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise typer.BadParameter(
            f"{name!r} is not a valid log level; use CRITICAL, ERROR, WARNING, INFO or DEBUG", param_hint=place
        )
    return number


def configure(level: str, kind: Format) -> None:
    """Set up logging for the process; exits with a line when the level is not valid."""
    number = level_of(level, "--log-level")
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if kind is Format.JSON else _TextFormatter())
    logging.basicConfig(level=number, handlers=[handler])
    logging.getLogger("urllib3").setLevel(max(number, logging.WARNING))
