"""YAML of values, in which every string is quoted that Helm's parser would take for another type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def dump(values: Mapping[str, Any]) -> str:
    """The text of a values file; ``values`` are plain maps, lists, strings, numbers and booleans."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes strings which Helm's parser takes for a boolean or a number and PyYAML does not: y, n, 1e3."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text[:1].isdigit() or text.lower() in {"y", "n"} else None
    )


_Dumper.add_representer(str, _text)
