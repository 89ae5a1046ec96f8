"""The options, paths of the host and ways to fail that several commands share."""

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
    """The order in which a pool takes cores: one socket after the other, or round robin."""

    PACKED = "packed"
    SPREAD = "spread"


class Output(StrEnum):
    """The format of a command's output."""

    JSON = "json"
    TABLE = "table"


class Prefer(StrEnum):
    """The kinds of cores that a pool can take first."""

    SST_BF = "sst-bf"
    SST_CP = "sst-cp"


ConfDirOption = Annotated[Path | None, typer.Option("--conf-dir", help="Directory of the host's state [default: /etc/cmk].")]
ExclusiveOption = Annotated[
    int, typer.Option("--num-exclusive-cores", "--num-dp-cores", help="Physical cores of pool exclusive; -1: all that remain.")
]
SharedOption = Annotated[
    int, typer.Option("--num-shared-cores", "--num-cp-cores", help="Physical cores of pool shared; -1: all that remain.")
]
ExclusiveModeOption = Annotated[
    AllocationMode, typer.Option("--exclusive-mode", help="One socket after the other, or round robin.")
]
SharedModeOption = Annotated[AllocationMode, typer.Option("--shared-mode", help="One socket after the other, or round robin.")]
ExclNonIsolcpusOption = Annotated[
    str, typer.Option("--excl-non-isolcpus", help="Cores of pool exclusive-non-isolcpus, as in 10-15; -1: without this pool.")
]
SocketOption = Annotated[int, typer.Option("--socket-id", help="Take the cores from this socket; -1: from any.")]
PreferOption = Annotated[Prefer | None, typer.Option("--prefer", help="Take cores first that Speed Select (SST) gives priority.")]
ReservedOption = Annotated[
    str, typer.Option("--reserved-cpus", help="CPUs in no pool, as in 0,32; auto: those outside this process's cpuset.")
]
PublishOption = Annotated[
    bool, typer.Option("--publish", help="Accepted and ignored: in a cluster the agent publishes by itself.")
]


def _seconds(value: str | int) -> int:
    text = str(value)  # typer also parses the default
    seconds = grammar.number_in(text, _LONGEST_INTERVAL)
    if seconds < 0:
        raise typer.BadParameter(f"{text[:40]!r} is not a whole number of seconds, 0 to {_LONGEST_INTERVAL}")
    return seconds


_LONGEST_INTERVAL = 1_000_000_000  # as of the static launcher
IntervalOption = Annotated[
    int, typer.Option("--interval", parser=_seconds, metavar="INTEGER", help="Seconds between runs; 0 runs once.")
]
InstallDirOption = Annotated[Path, typer.Option("--install-dir", help="Directory of the cmk executable.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", help="Namespace of the release.")]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="JSON for programs, or a table for people.")]


def program() -> str:
    """The name by which the program was started: ``cmk``, or ``kcm`` with its older names."""
    return "kcm" if Path(sys.argv[0]).name == "kcm" else "cmk"


def fail(text: str, code: int = 1) -> NoReturn:
    """Exit with one line on standard error."""
    typer.echo(f"{program()}: {text}", err=True)
    raise typer.Exit(code)


def fail_in_pod(text: str, prefix: str = "", code: int = 1) -> NoReturn:
    """Exit with one line on standard error and in the container's status. The chart's Jobs try again after 75, not after 1."""
    with suppress(OSError):  # the file exists in containers alone
        TERMINATION_LOG.write_text(f"{text}\n")
    fail(f"{prefix}{text}", code)


def check_log_level() -> None:
    """Exit with a line when ``CMK_LOG_LEVEL`` is not a valid level."""
    logs.level_of(_level(), "CMK_LOG_LEVEL")


def note(text: str) -> None:
    """Print a line about what was done on standard error, unless ``CMK_LOG_LEVEL`` is above INFO."""
    if logs.level_of(_level(), "CMK_LOG_LEVEL") <= logging.INFO:
        typer.echo(text, err=True)


def warn(text: str) -> None:
    """Print a warning on standard error, unless ``CMK_LOG_LEVEL`` is above WARNING."""
    if logs.level_of(_level(), "CMK_LOG_LEVEL") <= logging.WARNING:
        typer.echo(f"WARNING: {text}", err=True)


def _level() -> str:
    return os.environ.get("CMK_LOG_LEVEL") or "INFO"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """An error with a text for users ends the command with that text in one line; any other is a fault of ours and keeps its traceback."""
    try:
        yield
    # No CmkError, which agents' clients would have to import at every start. It brings the exit code of cmk isolate.
    except say.Failure as failure:
        say.print_failure(failure)
        raise typer.Exit(failure.code) from failure
    except BrokenPipeError:
        raise  # typer handles a reader that closed the pipe
    except (CmkError, OSError) as error:  # of an OSError, the kernel's words and the path are what the user needs
        fail(str(error))


def conf_dir(chosen: Path | None) -> Path:
    """The directory of the host's state: the chosen one, or the program's default."""
    return chosen or Path(f"/etc/{program()}")


def procfs() -> Procfs:
    """The host's procfs; exits with a line when it is not one."""
    root = Path(os.environ.get("CMK_PROC_FS") or os.environ.get("KCM_PROC_FS") or "/proc")
    if not (root / "sys/kernel/random/boot_id").is_file():
        fail(f"CMK_PROC_FS={root} is not a procfs: set it to where the host's /proc is mounted, or leave it out")
    return Procfs(root)


def topology() -> Topology:
    """The topology of this host, or of the system root in ``CMK_DEV_LSCPU_SYSFS`` (as for ``lscpu -s``). Raises TopologyError."""
    root = Path(os.environ.get("CMK_DEV_LSCPU_SYSFS") or "/")
    return read_topology(root / "sys", procfs().root / "cmdline")


def fail_beside_agent(directory: Path, remedy: str) -> None:
    """Exit with a line when an agent serves this directory: two allocators on one host would allocate a core twice."""
    if path := ask.agent_at(str(directory)):
        fail(f"an agent serves this host at {path}: {remedy}")


@contextmanager
def locked(directory: Path) -> Iterator[ConfDir]:
    """The state of a directory, under its lock for the length of the block. Creates the directory."""
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
    """The flags that define pools, as plain values instead of typer's enums."""
    preference: Preference | None = prefer.value if prefer else None
    return PoolFlags(
        num_exclusive_cores, num_shared_cores, exclusive_mode.value, shared_mode.value, excl_non_isolcpus, socket_id, preference
    )


def takes_pool_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the flags of ``pool_flags``, whose result it gets as ``asked``. typer reads signatures: the command gets a new one."""
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
