"""The command line. ``cmk isolate`` never comes here to run (see ``cmk.launch``); it is listed for help and completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from cmk import __version__, launch
from cmk.cli import agent, certs, chart, common, hook, host, plan, show, webhook

app = typer.Typer(
    name="cmk",
    help="CPU pools for Kubernetes nodes and for single hosts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the image has no rich
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "agent": agent.run,
    "init": host.init,
    "describe": show.describe,
    "node-report": show.node_report,
    "plan": plan.plan,
    "reconcile": host.reconcile,
    "reconfigure": host.reconfigure,
    "reaffinitize": host.reaffinitize,
    "install": host.install_launcher,
    "uninstall": host.uninstall,
    "cluster-init": chart.cluster_init,
    "discover": chart.discover,
    "reconfigure_setup": chart.reconfigure_setup,
    "webhook": webhook.run,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)
app.add_typer(certs.app, name="certs")
app.add_typer(hook.app, name="hook")


@app.command("isolate", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def isolate(
    context: typer.Context,
    pool: Annotated[str, typer.Option(help="Pool to run on.")] = "",
    command: Annotated[list[str] | None, typer.Argument(help="COMMAND [-- ARGS...]; cmk isolate --help says more.")] = None,
) -> None:
    """Run a command on CPUs of a pool."""
    raise typer.Exit(launch.main([*([f"--pool={pool}"] if pool else []), *(command or []), *context.args]))


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options before the command."""
    common.check_log_level()
    if version:
        typer.echo(f"{common.program()} {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    app(prog_name=common.program())
