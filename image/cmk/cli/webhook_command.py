"""``cmk webhook``, which the chart's Deployment runs to answer the API server's reviews of pods."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cmk.cli import common, logs
from cmk.model.errors import CmkError


class Insecure(StrEnum):
    """The values of ``--insecure``, which takes a word, as in Intel CMK."""

    TRUE = "true"
    FALSE = "false"


def run(
    conf_file: Annotated[Path, typer.Option(help="Configuration, server.yaml.")] = Path("/etc/webhook/server.yaml"),
    cafile: Annotated[Path, typer.Option(help="CA that must have signed the API server's client certificate.")] = Path(
        "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
    ),
    insecure: Annotated[
        Insecure, typer.Option(case_sensitive=False, help="true: TLS without client certificates.")
    ] = Insecure.FALSE,
    health_port: Annotated[
        int | None, typer.Option(help="Port of /healthz, /readyz and /metrics, plain HTTP [default: not served].")
    ] = None,
    log_level: Annotated[str, typer.Option(envvar="CMK_LOG_LEVEL", help="CRITICAL, ERROR, WARNING, INFO or DEBUG.")] = "INFO",
    log_format: Annotated[logs.Format, typer.Option(help="Text or one JSON object per line.")] = logs.Format.TEXT,
) -> None:
    """Serve the admission webhook, which gives pods that request cores the launcher, CMK_NUM_CORES, toleration and annotation."""
    logs.configure(log_level, log_format)
    from cmk.webhook import process  # noqa: PLC0415  # an HTTP server would slow down the start of every other command

    try:
        process.WebhookProcess(conf_file, None if insecure is Insecure.TRUE else cafile, health_port).run()
    except (CmkError, OSError) as error:
        common.fail(f"webhook: {error}")
