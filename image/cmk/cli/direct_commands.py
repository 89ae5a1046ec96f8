"""The commands of direct mode, for the pools of one host without cluster or agent."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cmk.cli import chart_commands, common
from cmk.direct.pools import ConfDir
from cmk.host import affinity, launcher_files
from cmk.host.peer import open_process
from cmk.host.state import StateError
from cmk.isolate import ask, local
from cmk.legacy import takeover, tree
from cmk.model import cpuset, layout
from cmk.model.config import AUTO, PoolConfig, Section
from cmk.model.cpuset import CpuSet
from cmk.model.flags import PoolFlags
from cmk.model.layout import Layout, SavedLayout
from cmk.model.tasks import Task
from cmk.model.topology import Topology

_SCOPE, _ADOPTED = "cmk init", "adopted"


@common.takes_pool_flags
def init(
    asked: PoolFlags,
    conf_dir: common.ConfDirOption = None,
    reserved_cpus: common.ReservedOption = "",
    from_configmap: Annotated[
        Path | None,
        typer.Option(help="Take over the pools of CMK 1.5: kubectl get configmap cmk-config-NODE -o yaml, in a file."),
    ] = None,
) -> None:
    """Split this host's cores into pools, or take over the pools that kcm or an older CMK has left in the directory."""
    directory = common.conf_dir(conf_dir)
    with common.one_line_errors():
        common.fail_beside_agent(directory, "its pools come from the chart's values")
        pools = asked.pools()
        machine = common.topology()
        if from_configmap is not None:
            old = takeover.parse_configmap(_configmap(from_configmap))
            with common.locked(directory) as state:
                if state.saved() is not None:
                    common.fail(
                        f"{directory} has pools already: take over into another directory, or {common.program()} uninstall first"
                    )
                _take_over(state, old, machine)
            return
        if tree.exists(directory):
            with common.locked(directory) as state:
                saved = state.saved()
                if saved is None:
                    _take_over(state, tree.read(directory), machine)
                    return
                if saved.scope == _ADOPTED:  # killed between taking over and this
                    common.note(f"took over {_summary(saved.layout)}; the old state is kept in {state.set_aside()}")
                    return
        wanted = _saved(pools, reserved_cpus, machine)
        with common.locked(directory) as state:
            saved = state.saved()
            if saved is not None:
                if saved.layout.pools != wanted.layout.pools:
                    common.fail(
                        f"{directory} has other pools already ({_summary(saved.layout)}); to change them: {common.program()} reconfigure"
                    )
                common.note(f"{directory} has these pools already: {_summary(saved.layout)}")
                return
            state.create(wanted)
        _print_layout(wanted.layout)


@common.takes_pool_flags
def reconfigure(
    asked: PoolFlags,
    conf_dir: common.ConfDirOption = None,
    reserved_cpus: common.ReservedOption = "",
    node_name: Annotated[str, typer.Option(help="In a cluster: change this node alone [default: all].")] = "",
    install_dir: common.InstallDirOption = Path("/opt/bin"),
    namespace: common.NamespaceOption = "cmk",
) -> None:
    """Change the pools under running tasks. Without pools in --conf-dir, print the helm upgrade that does so in a cluster."""
    directory = common.conf_dir(conf_dir)
    with common.one_line_errors():
        pools = asked.pools()
        if not local.serves(str(directory)):
            chart_commands.print_upgrade(pools, node_name, namespace)
            return
        common.fail_beside_agent(directory, "change the chart's values")
        wanted = _saved(pools, reserved_cpus, common.topology())
        with _pools_of(directory) as (state, saved):
            plan = state.move(state.recover(saved), saved, wanted)
        _print_layout(wanted.layout)
        for move in plan.moves:
            common.note(
                f"process {move.task.process.pid}: {move.task.pool} {' '.join(move.task.lists)} -> {' '.join(move.lists)}"
            )


def reaffinitize(
    conf_dir: common.ConfDirOption = None,
    node_name: Annotated[str, typer.Option(help="Accepted and ignored: direct mode has this host alone.")] = "",
    namespace: common.NamespaceOption = "cmk",
) -> None:
    """Pin every task to the CPUs that it holds, whatever has changed its affinity since."""
    directory = common.conf_dir(conf_dir)
    with common.one_line_errors():
        if not local.serves(str(directory)):
            typer.echo("Nothing to run here: in a cluster the agent moves tasks when their pools change.")
            return
        common.fail_beside_agent(directory, "its tasks are the agent's")
        with _pools_of(directory) as (state, saved):
            ledger = state.recover(saved)
            for task in ledger.tasks.values():
                try:
                    process = open_process(common.procfs(), task.process)
                except ProcessLookupError:
                    continue  # it has ended since its lists were looked up
                try:
                    affinity.pin(common.procfs(), process.pid, ledger.cpus_of(task), process.has_ended)
                finally:
                    os.close(process.pidfd)
                common.note(f"process {task.process.pid}: {task.pool} {' '.join(task.lists)}")


def reconcile(
    conf_dir: common.ConfDirOption = None,
    publish: common.PublishOption = False,
    interval: common.IntervalOption = 0,
) -> None:
    """Release the CPU lists of tasks that have ended, and print them."""
    directory = common.conf_dir(conf_dir)
    while True:
        with common.one_line_errors():
            if path := ask.agent_at(str(directory)):
                common.note(f"{common.program()}: nothing to do: the agent at {path} releases a task's lists as soon as it ends")
                return
            if not local.serves(str(directory)):
                common.fail(f"{directory} has no pools: run {common.program()} init first")
            typer.echo(json.dumps(_reconcile(directory), indent=2, sort_keys=True))
        if not interval:
            return
        time.sleep(interval)


def uninstall(
    conf_dir: common.ConfDirOption = None,
    install_dir: common.InstallDirOption = Path("/opt/bin"),
    namespace: common.NamespaceOption = "cmk",
) -> None:
    """Remove pools and executable from this host. Without pools in --conf-dir, print the commands that remove the chart from a cluster."""
    directory = common.conf_dir(conf_dir)
    with common.one_line_errors():
        if not local.serves(str(directory)):
            chart_commands.print_uninstall(namespace)
            return
        common.fail_beside_agent(directory, "uninstall the chart")
        with _pools_of(directory) as (state, saved):
            if tasks := state.ledger(saved)[0].tasks:
                pids = ", ".join(str(process.pid) for process in sorted(tasks))
                common.fail(f"processes {pids} still run on the pools of {directory}: stop them first")
            state.remove()
        program = install_dir / common.program()
        if program.is_file() and program.resolve() != Path(sys.argv[0]).resolve():  # not this very program
            program.unlink()
            common.note(f"removed {program}")
        common.note(f"removed the pools of {directory}")


def install_launcher(
    install_dir: common.InstallDirOption = Path("/opt/bin"),
    conf_dir: common.ConfDirOption = None,
    launcher: Annotated[Path, typer.Option(envvar="CMK_LAUNCHER", help="Executable to install.")] = Path("/usr/lib/cmk/cmk"),
) -> None:
    """Put the static cmk executable into a directory of the host, for containers to mount."""
    with common.one_line_errors():
        if not launcher.is_file():
            common.fail(
                f"there is no {launcher}: it is in the image; elsewhere build image/launcher and name the file with --launcher"
            )
        install_dir.mkdir(parents=True, exist_ok=True)
        launcher_files.install(launcher, install_dir, common.program())
        common.note(f"installed {install_dir / common.program()}")


@contextmanager
def _pools_of(directory: Path) -> Iterator[tuple[ConfDir, SavedLayout]]:
    """The existing pools of a directory, under its lock for the length of the block; exits with a line when there are none."""
    with common.locked(directory) as state:
        saved = state.saved()
        if saved is None:
            common.fail(_removed(directory))
        yield state, saved


def _saved(pools: dict[str, PoolConfig], reserved: str, machine: Topology) -> SavedLayout:
    digest = hashlib.sha256(msgspec.json.encode([pools, reserved])).hexdigest()[:16]
    cpus = _reserved(reserved, machine)  # before the section, which takes only what can be read
    return SavedLayout(layout.compute(machine, pools, cpus), Section(pools, digest, reserved=reserved), _SCOPE, machine)


def _reserved(text: str, machine: Topology) -> CpuSet:
    if text == AUTO:
        return machine.cpus - affinity.allowed(machine.cpus)
    try:
        return cpuset.parse(text)
    except cpuset.CpuSetError as error:
        raise layout.LayoutError(f"--reserved-cpus={text}: {error}") from error


def _configmap(path: Path) -> object:
    import yaml  # noqa: PLC0415  # would slow down every start of the agent

    try:
        content = yaml.safe_load(path.read_text())
        if isinstance(content, dict) and content.get("kind") == "ConfigMap":
            content = yaml.safe_load((content.get("data") or {}).get("config") or "")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise takeover.AdoptionError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return content


def _take_over(state: ConfDir, old: Mapping[str, takeover.OldPool], machine: Topology) -> None:
    taken = takeover.take_over(old, machine)
    section = Section(takeover.as_config(taken.layout), _ADOPTED)
    ledger, dropped, moved_to = state.take_over(taken, SavedLayout(taken.layout, section, _ADOPTED, machine))
    note = f"; the old state is kept in {moved_to}" if moved_to else ""
    common.note(f"took over {_summary(taken.layout)} and {len(ledger.tasks)} tasks{note}")
    for reason in dropped:
        common.warn(f"dropped: {reason}")


def _reconcile(directory: Path) -> dict[str, Any]:
    with common.locked(directory) as state:
        saved = _saved_or_rebuilt(state)
        _, dead = state.ledger(saved)
        ledger = state.recover(saved)
        if dead or ledger.tasks:  # tasks may have passed on to processes that those which have ended have started
            state.save(saved, ledger)
    return {
        "reclaimedCpuLists": [
            {"pid": task.process.pid, "pool": task.pool, "cpus": name}
            for task in sorted(dead, key=lambda task: task.process)
            for name in task.lists
        ],
        "mismatchedCpuMasks": [item for task in ledger.tasks.values() if (item := _mismatch(task, ledger.cpus_of(task)))],
    }


def _saved_or_rebuilt(state: ConfDir) -> SavedLayout:
    try:
        saved = state.saved()
    except StateError as error:
        rebuilt = state.rebuild()
        if rebuilt is None:
            raise
        saved, ledger = rebuilt
        common.warn(f"{error}")
        owners = ", ".join(f"{' '.join(task.lists)} by process {task.process.pid}" for task in ledger.tasks.values())
        common.warn(f"made it anew; tasks of shared pools are lost, exclusive cores are held: {owners or 'none'}")
    if saved is None:
        common.fail(_removed(state.path))
    return saved


def _removed(directory: Path) -> str:
    return f"the pools of {directory} have just been removed: run {common.program()} init to have some again"


def _mismatch(task: Task, cpus: CpuSet) -> dict[str, Any] | None:
    try:
        actual = frozenset(os.sched_getaffinity(task.process.pid))
    except ProcessLookupError:
        return None
    if actual <= cpus:
        return None
    lists = cpuset.kernel_list(cpus)
    return {"pid": task.process.pid, "pool": task.pool, "cpus": lists, "actual": cpuset.kernel_list(actual)}


def _summary(layout: Layout) -> str:
    return ", ".join(f"{name} {cpuset.kernel_list(pool.cpus)}" for name, pool in layout.pools.items() if pool.lists)


def _print_layout(layout: Layout) -> None:
    for name, pool in layout.pools.items():
        common.note(f"pool {name}: {' '.join(cpuset.kernel_list(item.cpus) for item in pool.lists)}")
    for warning in layout.warnings:
        common.warn(warning)
