"""``cmk describe`` and ``cmk node-report``, about the pools of this host's agent or of direct mode."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import typer

from cmk.cli import common, report_table
from cmk.direct.pools import ConfDir
from cmk.isolate import ask, say
from cmk.model import report


def describe(conf_dir: common.ConfDirOption = None, output: common.OutputOption = common.Output.JSON) -> None:
    """Print pools, their CPU lists and the processes on each."""
    with common.one_line_errors():
        _show("describe", common.conf_dir(conf_dir), output)


def node_report(
    conf_dir: common.ConfDirOption = None,
    publish: common.PublishOption = False,
    interval: common.IntervalOption = 0,
    output: common.OutputOption = common.Output.JSON,
) -> None:
    """Print pools, topology, and contradictions between them."""
    if publish:
        typer.echo(f"{common.program()}: --publish means nothing here: the agent publishes by itself", err=True)
    if interval:
        signal.signal(
            signal.SIGTERM, lambda number, _: sys.exit(128 + number)
        )  # which the first process of a container ignores else
    while True:
        with common.one_line_errors():
            _show("node-report", common.conf_dir(conf_dir), output)
        if not interval:
            return
        time.sleep(interval)


def _show(what: str, directory: Path, output: common.Output) -> None:
    if sys.stdout is None:  # closed at the start: what is written to it would be lost without a word
        raise say.Failure(say.LATER, f"cannot write: {os.strerror(errno.EBADF)}")
    state = ConfDir(directory, common.procfs())
    saved = state.saved()
    if saved is not None and ask.agent_at(str(directory)):
        saved = None
    if saved is None and output is common.Output.JSON and common.program() == "cmk":
        sys.stdout.buffer.write(ask.show(what, str(directory)))
        sys.stdout.buffer.flush()
        return
    if saved is None:
        text = ask.show("node-report", str(directory))
        try:
            content = dict(json.loads(text))
        except ValueError as error:  # of an agent that does not say how long its answer is
            raise say.Failure(say.LATER, f"the agent's answer broke off after {len(text)} bytes: {error}; try again") from error
    else:
        ledger, _ = state.ledger(saved)
        content = report.node_report(ledger, common.topology(), str(directory), saved.topology)
    if output is common.Output.TABLE:
        for line in report_table.lines(content, common.procfs()):
            typer.echo(line)
        return
    if common.program() == "kcm":
        report.use_old_names(content["description"]["pools"])
    typer.echo(json.dumps(content["description"] if what == "describe" else content, indent=2))
