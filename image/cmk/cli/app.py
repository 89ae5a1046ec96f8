"""The command ``cmk`` with its subcommands. ``isolate`` is here for help and completion; it runs without this module (``__main__``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from cmk import __version__
from cmk.cli import (
    agent_command,
    certs_command,
    chart_commands,
    common,
    direct_commands,
    hook_command,
    plan_command,
    show_commands,
    webhook_command,
)
from cmk.isolate import launch

if TYPE_CHECKING:
    import click  # a dependency of typer, for the type of a context

app = typer.Typer(
    name="cmk",
    help="CPU pools for Kubernetes nodes and for single hosts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the image has no rich
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "agent": agent_command.run,
    "init": direct_commands.init,
    "describe": show_commands.describe,
    "node-report": show_commands.node_report,
    "plan": plan_command.plan,
    "reconcile": direct_commands.reconcile,
    "reconfigure": direct_commands.reconfigure,
    "reaffinitize": direct_commands.reaffinitize,
    "install": direct_commands.install_launcher,
    "uninstall": direct_commands.uninstall,
    "cluster-init": chart_commands.cluster_init,
    "discover": chart_commands.discover,
    "reconfigure_setup": chart_commands.reconfigure_setup,
    "webhook": webhook_command.run,
}
for name, command in _COMMANDS.items():
    app.command(name)(command)
app.add_typer(certs_command.app, name="certs")
app.add_typer(hook_command.app, name="hook")


class _Verbatim(TyperCommand):
    """A command whose words stay as typed: Click would remove the first ``--``, wherever it stands, and answer ``-h`` of the workload."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.resilient_parsing:  # completion
            return super().parse_args(ctx, args)
        ctx.args = list(args)
        return []


@app.command("isolate", cls=_Verbatim)
def isolate(
    context: typer.Context,
    pool: Annotated[str, typer.Option(help="Pool to run on.")] = "",
    command: Annotated[list[str] | None, typer.Argument(help="COMMAND [-- ARGS...]; cmk isolate --help says more.")] = None,
) -> None:
    """Run a command on CPUs of a pool."""
    raise typer.Exit(launch.main(context.args))


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Handle the options before the command."""
    common.check_log_level()
    if version:
        typer.echo(f"{common.program()} {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app(prog_name=common.program())
