"""What several commands share: options, where the host is, and how to fail."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Annotated, NoReturn

import typer

from cmk.cli import logs
from cmk.direct.pools import ConfDir
from cmk.host.procfs import Procfs
from cmk.host.sysfs import read_topology
from cmk.isolate import ask, grammar, local, say
from cmk.model.config import Preference
from cmk.model.errors import CmkError
from cmk.model.flags import PoolFlags
from cmk.model.topology import Topology

TERMINATION_LOG = Path("/dev/termination-log")
TRY_AGAIN = 75


class AllocationMode(StrEnum):
    """Where the cores of a pool come from."""

    PACKED = "packed"
    SPREAD = "spread"


class Output(StrEnum):
    """How a command answers."""

    JSON = "json"
    TABLE = "table"


class Prefer(StrEnum):
    """Cores that come first."""

    SST_BF = "sst-bf"
    SST_CP = "sst-cp"


ConfDirOption = Annotated[Path | None, typer.Option("--conf-dir", help="Directory of the host's state [default: /etc/cmk].")]
ExclusiveOption = Annotated[
    int, typer.Option("--num-exclusive-cores", "--num-dp-cores", help="Physical cores of pool exclusive; -1 is all that remain.")
]
SharedOption = Annotated[
    int, typer.Option("--num-shared-cores", "--num-cp-cores", help="Physical cores of pool shared; -1 is all that remain.")
]
ExclusiveModeOption = Annotated[
    AllocationMode, typer.Option("--exclusive-mode", help="One socket after the other, or round robin.")
]
SharedModeOption = Annotated[AllocationMode, typer.Option("--shared-mode", help="One socket after the other, or round robin.")]
ExclNonIsolcpusOption = Annotated[
    str, typer.Option("--excl-non-isolcpus", help="Cores of pool exclusive-non-isolcpus, as in 10-15; -1 is no such pool.")
]
SocketOption = Annotated[int, typer.Option("--socket-id", help="Take the cores from this socket; -1 is any.")]
PreferOption = Annotated[Prefer | None, typer.Option("--prefer", help="Cores that SST distinguishes come first.")]
ReservedOption = Annotated[
    str, typer.Option("--reserved-cpus", help="CPUs in no pool, as in 0,32; auto is what the own cpuset lacks.")
]
PublishOption = Annotated[bool, typer.Option("--publish", help="Accepted: the agent of a cluster publishes by itself.")]
IntervalOption = Annotated[int, typer.Option("--interval", min=0, help="Seconds between runs; 0 runs once.")]
InstallDirOption = Annotated[Path, typer.Option("--install-dir", help="Directory of the cmk executable.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", help="Namespace of the release.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="JSON for machines or a table for people.")]


def program() -> str:
    """The name we were called by: ``cmk``, or ``kcm`` with its older words."""
    return "kcm" if Path(sys.argv[0]).name == "kcm" else "cmk"


def fail(text: str, code: int = 1) -> NoReturn:
    """End with one line and an exit code."""
    typer.echo(f"{program()}: {text}", err=True)
    raise typer.Exit(code)


def fail_in_pod(text: str, who: str = "", code: int = 1) -> NoReturn:
    """End with one line, also where Kubernetes shows why a container ended. The chart's Jobs try again after 75, not after 1."""
    with suppress(OSError):  # there is none outside a container
        TERMINATION_LOG.write_text(f"{text}\n")
    fail(f"{who}{text}", code)


def check_log_level() -> None:
    """Exit with a line when ``CMK_LOG_LEVEL`` is none."""
    logs.level_of(_level(), "CMK_LOG_LEVEL")


def note(text: str) -> None:
    """Say what was done, on standard error, unless ``CMK_LOG_LEVEL`` asks for less."""
    if logs.level_of(_level(), "CMK_LOG_LEVEL") <= logging.INFO:
        typer.echo(text, err=True)


def warn(text: str) -> None:
    """Say what an operator should know, unless ``CMK_LOG_LEVEL`` asks for errors alone."""
    if logs.level_of(_level(), "CMK_LOG_LEVEL") <= logging.WARNING:
        typer.echo(f"WARNING: {text}", err=True)


def _level() -> str:
    return os.environ.get("CMK_LOG_LEVEL") or "INFO"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """An error with a text for users ends the command with that text in one line; any other is a fault of ours and keeps its traceback."""
    try:
        yield
    # No CmkError: cmk.isolate imports nothing that is not its own. It brings the exit code of cmk isolate.
    except say.Failure as failure:
        fail(str(failure), failure.code)
    except BrokenPipeError:
        raise  # typer handles a reader that closed the pipe
    except (CmkError, OSError) as error:  # of an OSError, the kernel's words and the path are what the user needs
        fail(str(error))


def conf_dir(chosen: Path | None) -> Path:
    """The directory meant."""
    return chosen or Path(f"/etc/{program()}")


def procfs() -> Procfs:
    """The host's procfs."""
    root = Path(os.environ.get("CMK_PROC_FS") or os.environ.get("KCM_PROC_FS") or "/proc")
    if not (root / "sys/kernel/random/boot_id").is_file():
        fail(f"CMK_PROC_FS={root} is no procfs: name where the host's /proc is mounted, or leave it out")
    return Procfs(root)


def topology() -> Topology:
    """This host's, or that below ``CMK_DEV_LSCPU_SYSFS``, a system root as ``lscpu -s`` takes one. Raises TopologyError."""
    root = Path(os.environ.get("CMK_DEV_LSCPU_SYSFS") or "/")
    return read_topology(root / "sys", procfs().root / "cmdline")


def fail_beside_agent(directory: Path, remedy: str) -> None:
    """Two allocators on one host would give a core away twice."""
    if path := ask.agent_at(str(directory)):
        fail(f"an agent serves this host at {path}: {remedy}")


@contextmanager
def locked(directory: Path) -> Iterator[ConfDir]:
    """The state of a directory, ours alone for the length of the block."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with local.Lock(str(directory), monotonic() + grammar.timeout()):
        yield ConfDir(directory, procfs())


def pool_flags(
    num_exclusive_cores: ExclusiveOption = 4,
    num_shared_cores: SharedOption = 1,
    shared_mode: SharedModeOption = AllocationMode.PACKED,
    exclusive_mode: ExclusiveModeOption = AllocationMode.PACKED,
    excl_non_isolcpus: ExclNonIsolcpusOption = "-1",
    socket_id: SocketOption = -1,
    prefer: PreferOption = None,
) -> PoolFlags:
    """The flags that ask for pools, out of typer's enums."""
    how: Preference | None = prefer.value if prefer else None
    return PoolFlags(
        num_exclusive_cores, num_shared_cores, exclusive_mode.value, shared_mode.value, excl_non_isolcpus, socket_id, how
    )


def takes_pool_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of ``pool_flags``; it gets what they say as ``asked``. typer reads signatures, so one is made."""
    flags = inspect.signature(pool_flags, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: object) -> None:
        asked = pool_flags(**{name: given.pop(name) for name in flags})  # type: ignore[arg-type]
        command(asked=asked, **given)

    parameters = [*flags.values(), *(parameter for name, parameter in own.items() if name != "asked")]
    run.__signature__ = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run
