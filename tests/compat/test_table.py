"""docs/compatibility.md names every command and flag of the programs before us, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import typer

from cmk.cli.app import app

REPO = Path(__file__).parents[2]
TEXT = (REPO / "docs/compatibility.md").read_text()
POOLS = "num-exclusive-cores num-shared-cores shared-mode exclusive-mode excl-non-isolcpus"
# The union of kcm 0.6, CMK 1.0 to 1.5.2, as their usage texts have them.
FLAGS = {
    "cluster-init": f"host-list all-hosts cmk-cmd-list cmk-img cmk-img-pol install-dir conf-dir {POOLS} pull-secret saname namespace "
    "cafile insecure no-taint",
    "init": f"conf-dir {POOLS} socket-id num-dp-cores num-cp-cores",
    "discover": "conf-dir no-taint",
    "describe": "conf-dir",
    "reconcile": "conf-dir publish interval",
    "isolate": "conf-dir socket-id pool no-affinity namespace install-dir",
    "install": "install-dir",
    "node-report": "conf-dir publish interval",
    "uninstall": "install-dir conf-dir namespace",
    "webhook": "conf-file cafile insecure",
    "reconfigure": f"node-name {POOLS} install-dir namespace",
    "reconfigure_setup": f"{POOLS} cmk-img cmk-img-pol install-dir saname namespace",
    "reaffinitize": "node-name namespace",
}
VARIABLES = (
    "CMK_LOCK_TIMEOUT CMK_PROC_FS CMK_LOG_LEVEL CMK_DEV_LSCPU_SYSFS CMK_NUM_CORES KCM_LOCK_TIMEOUT KCM_PROC_FS CMK_CPUS_ASSIGNED "
    "CMK_CPUS_ASSIGNED_MASK CMK_CPUS_SHARED CMK_CPUS_INFRA KCM_CPUS_ASSIGNED"
)


def test_every_command_and_flag_has_a_row() -> None:
    rows = set(re.findall(r"^\| `([a-z_-]+)` \| (?:`--([a-z-]+)`)? *\|", TEXT, re.M))
    missing = [(name, flag) for name, flags in FLAGS.items() for flag in ["", *flags.split()] if (name, flag) not in rows]
    assert missing == []


def test_every_flag_is_one_of_the_program() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    there = {name: {option for item in command.params for option in item.opts} for name, command in commands.items()}
    missing = [
        (name, flag)
        for name, flags in FLAGS.items()
        for flag in flags.split()
        if name != "isolate" and f"--{flag}" not in there[name]  # isolate reads its own line
    ]
    assert missing == []


def test_every_variable_has_a_row() -> None:
    assert [name for name in VARIABLES.split() if f"| `{name}` |" not in TEXT] == []


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:tests|charts)/[^`:]+)(?:::(\w+))?`", TEXT))
    assert len(named) > 40
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (REPO / path).is_file() or (name and f"def {name}(" not in (REPO / path).read_text())
    ]
    assert missing == []


def test_every_row_names_a_test() -> None:
    rows = [
        line
        for line in TEXT.splitlines()
        if line.startswith("| ") and not line.startswith(("| Command |", "| Variable |", "| What |"))
    ]
    assert [line for line in rows if not re.search(r"`(tests|charts)/[^`]+` \|$", line)] == []
