"""The format of log lines on standard error: text for people, JSON for machines."""

from __future__ import annotations

import json
import logging
from enum import StrEnum

import typer

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Format(StrEnum):
    """The format of a log line."""

    TEXT = "text"
    JSON = "json"


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
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
    handler.setFormatter(_JsonFormatter() if kind is Format.JSON else logging.Formatter(_TEXT))
    logging.basicConfig(level=number, handlers=[handler])
    logging.getLogger("urllib3").setLevel(max(number, logging.WARNING))
