"""The command line, in typer: a module per command or family of commands.


Holds: options, output, exit codes and the text of errors. This is the only place that prints or exits, but for ``cmk.isolate``.
Never here: a decision that a test would want without a terminal.
Imported by: ``cmk.__main__`` alone.
"""
