"""The nodes' configuration as the chart renders it, read from mounted ConfigMaps, or from values by ``helm template``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cmk.model import config
from cmk.model.config import ClusterConfig, ConfigError, Host

CLUSTER, HOSTS = "config.json", "hosts.json"
Configuration = tuple[ClusterConfig, dict[str, Host]]


def mounted(directory: Path) -> Configuration:
    """The configuration in ``config.json`` and any number of ``hosts*.json``; raises ConfigError, OSError."""
    hosts = [path.read_text() for path in sorted(directory.glob("hosts*.json"))]
    return _parse((directory / CLUSTER).read_text(), hosts)


def rendered(values: Iterable[Path], settings: Mapping[str, Iterable[str]], chart: Path) -> Configuration:
    """The configuration that helm renders from values files and from options (``--set`` and the like: option → arguments).

    Raises ConfigError.
    """
    import yaml  # noqa: PLC0415  # would slow down the start of every other command

    if not (chart / "Chart.yaml").is_file():
        raise ConfigError(f"there is no chart in {chart}: name it with --chart")
    words = [word for path in values for word in ("-f", str(path))] + [
        word for option, texts in settings.items() for text in texts for word in (option, text)
    ]
    command = [os.environ.get("HELM_BIN") or "helm", "template", "cmk", str(chart), "--no-hooks", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # the user's own arguments
    except OSError as error:
        raise ConfigError(
            f"cannot run {command[0]}: {error.strerror}; install helm (HELM_BIN names it), or use --config"
        ) from error
    if done.returncode != 0:
        raise ConfigError(_reason(done.stderr))
    configmaps = [item.get("data") or {} for item in yaml.safe_load_all(done.stdout) if _is_configmap(item)]
    cluster = next((data[CLUSTER] for data in configmaps if CLUSTER in data), None)
    if cluster is None:
        raise ConfigError(f"{chart} renders no {CLUSTER}: is it the chart of cmk?")
    return _parse(cluster, [data[HOSTS] for data in configmaps if HOSTS in data])


def _reason(output: str) -> str:
    """Why helm failed, in one line. Its own line is long for an error of a template, and it prints several for those of a schema."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("Use --debug")]
    schema = [line.removeprefix("- ") for line in lines if line.startswith("- at ")]
    line = "; ".join(schema) if schema else (lines or ["helm failed without a message"])[-1].removeprefix("Error: ")
    return line.partition("): ")[2] if line.startswith("execution error at (") else line


def _is_configmap(item: Any) -> bool:  # noqa: ANN401  # whatever YAML holds
    return isinstance(item, Mapping) and item.get("kind") == "ConfigMap"


def _parse(cluster: str, hosts: Iterable[str]) -> Configuration:
    all_hosts: dict[str, Host] = {}
    for text in hosts:
        all_hosts |= config.parse_hosts(text)
    return config.parse_cluster(cluster), all_hosts
