"""The command line of the image: ``cmk agent``. ``isolate``, ``describe`` and ``node-report`` never come here (see ``cmk.launch``)."""

from __future__ import annotations

import typer

from cmk import __version__
from cmk.cli import agent

app = typer.Typer(
    name="cmk",
    help="CPU pools for Kubernetes nodes. In a pod: cmk isolate --pool=POOL COMMAND [-- ARGS...], see cmk isolate --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the image has no rich
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("agent")(agent.run)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Options before the command."""
    if version:
        typer.echo(f"cmk {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    app()
