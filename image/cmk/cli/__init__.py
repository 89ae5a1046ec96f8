"""The command line, written with typer: a module for each command or group of commands.

Holds: options, output, exit codes and the text of errors. This is the only place that prints or exits, but for ``cmk.isolate``.
Never here: a decision that a test would want without a terminal.
Imported by: ``cmk.__main__`` alone.
"""
