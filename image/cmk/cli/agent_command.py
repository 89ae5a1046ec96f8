"""``cmk agent``, which the chart's DaemonSet runs on each node."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cmk.cli import logs
from cmk.model.errors import CmkError


class RequireRequest(StrEnum):
    """How a process is treated that asks for an exclusive core in a pod that requests none."""

    ENFORCE = "enforce"
    WARN = "warn"


def run(
    node_name: Annotated[str, typer.Option(envvar="NODE_NAME", help="Name of the Node object of this host.")],
    namespace: Annotated[str, typer.Option(help="Namespace of the configuration.")],
    config: Annotated[str, typer.Option(help="ConfigMap with selection, default and groups.")],
    hosts_prefix: Annotated[str, typer.Option(help="Host ConfigMaps are named PREFIX-00 to PREFIX-15.")],
    pod_uid: Annotated[str, typer.Option(envvar="POD_UID", help="Uid of the agent's own pod.")] = "",
    install_dir: Annotated[Path, typer.Option(help="Host directory of launcher and socket.")] = Path("/opt/cmk"),
    run_dir: Annotated[Path, typer.Option(help="Tasks; a tmpfs of the host.")] = Path("/run/cmk"),
    state_dir: Annotated[Path, typer.Option(help="Layout and lock; survives reboots.")] = Path("/var/lib/cmk"),
    host_dir: Annotated[list[Path] | None, typer.Option(help="Further directory with launcher and socket; may repeat.")] = None,
    adopt_namespace: Annotated[
        list[str] | None, typer.Option(help="Take over pools of CMK 1.5 from a ConfigMap in this namespace; may repeat.")
    ] = None,
    cgroups: Annotated[
        Path | None, typer.Option(help="The host's cgroups, writable, to keep pods off exclusive cores. Without it no pod is.")
    ] = None,
    irqs: Annotated[Path | None, typer.Option(help="The host's /proc/irq, writable.")] = None,
    kubelet_socket: Annotated[
        Path | None, typer.Option(help="kubelet's pod-resources socket, which tells whether its CPU manager is at work.")
    ] = None,
    daemonset: Annotated[str, typer.Option(help="The agent's own DaemonSet: once it is gone, isolation is undone.")] = "",
    rollout_prefix: Annotated[
        str, typer.Option(help="Leases that limit how many nodes change are named PREFIX-0 and so on.")
    ] = "cmk-rollout",
    launcher: Annotated[Path, typer.Option(envvar="CMK_LAUNCHER", help="Launcher to install.")] = Path("/usr/lib/cmk/cmk"),
    system_root: Annotated[
        Path, typer.Option(envvar="CMK_DEV_LSCPU_SYSFS", help="Read the topology below this root, as lscpu -s does.")
    ] = Path("/"),
    procfs: Annotated[Path, typer.Option(envvar="CMK_PROC_FS", help="Root of the host's procfs.")] = Path("/proc"),
    require_request: Annotated[
        RequireRequest, typer.Option(help="Exclusive pools without a resource request: refuse, or only warn.")
    ] = RequireRequest.ENFORCE,
    connections_per_pod: Annotated[int, typer.Option(min=1, help="Open connections that one pod may have.")] = 256,
    waiting_per_pod: Annotated[int, typer.Option(min=1, help="Requests of one pod that may wait.")] = 200,
    tasks_per_pod: Annotated[int, typer.Option(min=1, help="Tasks that one pod may have.")] = 1000,
    requests_per_second: Annotated[int, typer.Option(min=1, help="Requests of one pod that are served in a second.")] = 100,
    health_port: Annotated[int, typer.Option(help="Port of /livez and /readyz.")] = 8086,
    log_level: Annotated[str, typer.Option(envvar="CMK_LOG_LEVEL", help="CRITICAL, ERROR, WARNING, INFO or DEBUG.")] = "INFO",
    log_format: Annotated[logs.Format, typer.Option(help="Text or one JSON object per line.")] = logs.Format.TEXT,
) -> None:
    """Serve this node's pools: lay them out, answer cmk isolate, and keep label, taint, resource and report up to date."""
    logs.configure(log_level, log_format)
    # Imported late: a client of the API would slow down the start of every other command.
    from cmk.agent.limits import Limits, raise_number_of_files  # noqa: PLC0415
    from cmk.agent.main import Agent  # noqa: PLC0415
    from cmk.agent.options import Options  # noqa: PLC0415
    from cmk.agent.stalls import Stalls, new_event_loop  # noqa: PLC0415
    from cmk.kube.client import in_cluster  # noqa: PLC0415

    options = Options(
        node=node_name,
        namespace=namespace,
        config=config,
        hosts_prefix=hosts_prefix,
        install_dir=install_dir,
        run_dir=run_dir,
        state_dir=state_dir,
        host_dirs=tuple(host_dir or ()),
        launcher=launcher,
        pod=pod_uid,
        require_request=require_request is RequireRequest.ENFORCE,
        health_port=health_port,
        adopt_namespaces=tuple(adopt_namespace or ()),
        cgroups=cgroups,
        irqs=irqs,
        kubelet_socket=kubelet_socket,
        daemonset=daemonset,
        rollout_prefix=rollout_prefix,
        sys_root=system_root / "sys",
        proc_root=procfs,
        limits=Limits(connections_per_pod, waiting_per_pod, tasks_per_pod, requests_per_second),
    )
    raise_number_of_files()
    stalls = Stalls()
    try:
        with asyncio.Runner(loop_factory=partial(new_event_loop, stalls)) as runner:
            runner.run(Agent(options, in_cluster(), stalls).run())
    except (CmkError, OSError) as error:
        typer.echo(f"cmk agent: {error}", err=True)
        raise typer.Exit(1) from error
