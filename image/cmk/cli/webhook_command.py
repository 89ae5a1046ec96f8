"""``cmk webhook``: answer the API server about pods, as the chart's Deployment does."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cmk.cli import common, logs
from cmk.model.errors import CmkError


class Insecure(StrEnum):
    """A flag that takes a word, as Intel CMK had it."""

    TRUE = "true"
    FALSE = "false"


def run(
    conf_file: Annotated[Path, typer.Option(help="Configuration, server.yaml.")] = Path("/etc/webhook/server.yaml"),
    cafile: Annotated[Path, typer.Option(help="CA that the API server's client certificate must come from.")] = Path(
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    ),
    insecure: Annotated[
        Insecure, typer.Option(case_sensitive=False, help="true: TLS as any server has it, without a look at who calls.")
    ] = Insecure.FALSE,
    health_port: Annotated[
        int | None, typer.Option(help="Port of /healthz, /readyz and /metrics, plain HTTP; none if left out.")
    ] = None,
    log_level: Annotated[str, typer.Option(envvar="CMK_LOG_LEVEL", help="CRITICAL, ERROR, WARNING, INFO or DEBUG.")] = "INFO",
    log_format: Annotated[logs.Format, typer.Option(help="Text or one JSON object per line.")] = logs.Format.TEXT,
) -> None:
    """Serve the admission webhook: pods that ask for cores get launcher, CMK_NUM_CORES, toleration and annotation."""
    logs.configure(log_level, log_format)
    from cmk.webhook import process  # noqa: PLC0415  # no other command should pay for an HTTP server

    try:
        process.WebhookProcess(conf_file, None if insecure is Insecure.TRUE else cafile, health_port).run()
    except (CmkError, OSError) as error:
        common.fail(f"webhook: {error}")
