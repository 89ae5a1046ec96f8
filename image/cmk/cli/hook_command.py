"""``cmk hook``, which the chart's Jobs run before and after an upgrade. The last line of output says what is wrong and what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cmk import __version__
from cmk.cli import common, fleet_table, rendered_config
from cmk.model.errors import CmkError

app = typer.Typer(help="Check an upgrade beforehand and afterwards, for the chart's hooks.", no_args_is_help=True)
# An agent that writes many reports in a minute waits up to 6 s before the next (agent/publisher.py): a task in the way may have ended.
SECONDS_UNTIL_REPORTED = 8.0
ConfigOption = Annotated[Path, typer.Option(help="Directory with config.json and hosts-*.json.")]


@app.command("plan")
def plan(config: ConfigOption) -> None:
    """Before an upgrade: fail when a node refuses the new configuration. Nothing is changed."""
    with _last_line():
        from cmk.fleet import cluster_nodes, preview  # noqa: PLC0415
        from cmk.kube import client  # noqa: PLC0415  # a client of the API would slow down the start of every other command

        wanted, hosts = rendered_config.mounted(config)
        api = client.in_cluster()
        fleet = preview.plan(wanted, hosts, cluster_nodes.nodes(api))
        if fleet.blocking:
            typer.echo(
                f"node {fleet.blocking[0].node} refuses; planning again in {SECONDS_UNTIL_REPORTED:.0f} s, when reports are current",
                err=True,
            )
            time.sleep(SECONDS_UNTIL_REPORTED)
            fleet = preview.plan(wanted, hosts, cluster_nodes.nodes(api))
        for line in fleet_table.plan_lines(fleet):
            typer.echo(line, err=True)
        if fleet.blocking:
            first = fleet.blocking[0]
            more = f" (and {len(fleet.blocking) - 1} nodes more)" if len(fleet.blocking) > 1 else ""
            common.fail_in_pod(f"upgrade refused, nothing has changed: node {first.node}: {first.text}{more}")


@app.command("verify")
def verify(
    config: ConfigOption,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for all nodes.")] = 240,
    max_failures: Annotated[str, typer.Option(help="Nodes that may fail: a number, or a percentage as in 5%.")] = "0",
) -> None:
    """After an upgrade: wait for every node; fail with a table when nodes have not applied the configuration."""
    with _last_line():
        from cmk.fleet import looks, rollout  # noqa: PLC0415
        from cmk.fleet import verify as fleet  # noqa: PLC0415
        from cmk.kube import client  # noqa: PLC0415  # a client of the API would slow down the start of every other command

        wanted, hosts = rendered_config.mounted(config)
        api = client.in_cluster()
        rows, notes = fleet.verify(wanted, hosts, looks.Looks(api), __version__, timeout)
        for line in fleet_table.verify_lines(rows):
            typer.echo(line, err=True)
        for note in notes:
            typer.echo(f"note: {note}", err=True)
        failed = [row for row in rows if row.failed]
        if len(failed) > rollout.allowed(max_failures, len(rows)):
            names = ", ".join(row.node for row in failed[:5]) + (" and more" if len(failed) > 5 else "")
            common.fail_in_pod(
                f"{len(failed)} of {len(rows)} nodes have not applied the configuration ({names}): {failed[0].text or failed[0].state}"
            )


@contextmanager
def _last_line() -> Iterator[None]:
    """End the command with one line for an error, and show the line in the container's status."""
    from cmk.kube.client import ApiError  # noqa: PLC0415

    try:
        yield
    except ApiError as error:
        common.fail_in_pod(str(error), code=common.TRY_AGAIN)
    except (CmkError, OSError) as error:
        common.fail_in_pod(str(error))
