"""Values as YAML that Helm's reader takes for what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def dump(values: Mapping[str, Any]) -> str:
    """The text of a values file."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes what Helm's reader takes for a boolean or a number and PyYAML does not: y, n, 1e3."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text[:1].isdigit() or text.lower() in {"y", "n"} else None
    )


_Dumper.add_representer(str, _text)
