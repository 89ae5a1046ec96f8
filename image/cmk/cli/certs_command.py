"""``cmk certs``, which the chart's hooks and the webhook's pods run for the webhook's certificate."""

from __future__ import annotations

import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cmk.cli import common, logs
from cmk.model.errors import CmkError

if TYPE_CHECKING:
    from cmk.certificates.install import Certs, ReleaseNames

app = typer.Typer(help="Create, install and renew the webhook's certificate.", no_args_is_help=True)
LifetimeOption = Annotated[int, typer.Option(min=1, help="Hours that a certificate is valid; it is renewed at two thirds.")]


@app.callback()
def where(
    context: typer.Context,
    namespace: Annotated[str, typer.Option(help="Namespace of the release.")],
    secret: Annotated[str, typer.Option(help="Secret with tls.crt, tls.key and ca.crt.")],
    service: Annotated[str, typer.Option(help="Service of the webhook, whose DNS names the certificate has.")],
    configuration: Annotated[str, typer.Option(help="MutatingWebhookConfiguration, and the ClusterRole that owns it.")],
    owner: Annotated[str, typer.Option(help="Deployment of the webhook.")],
    log_level: Annotated[str, typer.Option(envvar="CMK_LOG_LEVEL", help="CRITICAL, ERROR, WARNING, INFO or DEBUG.")] = "INFO",
    log_format: Annotated[logs.Format, typer.Option(help="Text or one JSON object per line.")] = logs.Format.TEXT,
) -> None:
    """Handle the options before the command, which name the webhook's objects."""
    logs.configure(log_level, log_format)
    from cmk.certificates.install import ReleaseNames  # noqa: PLC0415  # imports cryptography, which would slow down other commands

    context.obj = ReleaseNames(namespace, secret, service, configuration, owner)


@app.command("create")
def create(
    context: typer.Context,
    lifetime_hours: LifetimeOption = 2160,
    renew: Annotated[bool, typer.Option("--renew", help="Create a new one even if the old one is good.")] = False,
) -> None:
    """Create the Secret, unless it has a certificate that is good for a while."""
    with _one_line():
        _certs(context.obj, lifetime_hours).ensure(renew=renew)


@app.command("patch")
def patch(context: typer.Context) -> None:
    """Make the API server trust the certificate's CA."""
    from cmk.certificates.install import CertsError  # noqa: PLC0415

    with _one_line():
        if not _certs(context.obj).trust():
            raise CertsError(
                f"there is no MutatingWebhookConfiguration {context.obj.configuration}: install the chart with its webhook"
            )


@app.command("keep")
def keep(
    context: typer.Context,
    lease: Annotated[str, typer.Option(help="Lease whose holder works, of several keepers.")],
    mode: Annotated[
        str, typer.Option(help="hooks: renew the certificate; certManager or secret: it comes from cert-manager or from you.")
    ] = "hooks",
    manifest: Annotated[Path, typer.Option(help="The MutatingWebhookConfiguration, to restore it when it is deleted.")] = Path(
        "/etc/webhook/webhook.json"
    ),
    files: Annotated[Path, typer.Option(help="The Secret as mounted.")] = Path("/etc/webhook-certificate"),
    lifetime_hours: LifetimeOption = 2160,
) -> None:
    """Renew the certificate in time and restore deleted objects, until stopped."""
    from cmk.certificates.install import MANAGER  # noqa: PLC0415
    from cmk.certificates.keeper import CertificateMode, Keeper  # noqa: PLC0415
    from cmk.kube import client  # noqa: PLC0415
    from cmk.kube.lease import Creation, Lease  # noqa: PLC0415

    if mode not in set(CertificateMode):
        common.fail(f"--mode={mode} is not one of {', '.join(CertificateMode)}", 2)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with _one_line():
        certs = _certs(context.obj, lifetime_hours, owned=True)
        api = client.in_cluster()
        claim = Lease(api, context.obj.namespace, lease, platform.node(), Creation(MANAGER, certs.owner))
        Keeper(api, certs, claim, context.obj, CertificateMode(mode), manifest, files).run(stop)


def _certs(names: ReleaseNames, hours: int = 1, *, owned: bool = False) -> Certs:
    from cmk.certificates.install import Certs  # noqa: PLC0415
    from cmk.kube import client  # noqa: PLC0415

    return Certs(client.in_cluster(), names, timedelta(hours=hours), owned=owned)


@contextmanager
def _one_line() -> Iterator[None]:
    """End the command with one line for an error, and show the line in the container's status."""
    from cmk.kube.client import ApiError  # noqa: PLC0415

    try:
        yield
    except ApiError as error:
        common.fail_in_pod(str(error), "certs: ", common.TRY_AGAIN)
    except CmkError as error:
        common.fail_in_pod(str(error), "certs: ")
