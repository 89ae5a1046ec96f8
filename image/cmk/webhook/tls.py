"""TLS of the server: certificates change under open connections.

A context that has served must not be loaded into again: a pair that does not match breaks every later handshake, and another type of key is
not noticed. So each change makes a new context, and a base context hands every handshake over to the newest good one.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmk.model.errors import CmkError


class PairError(CmkError):
    """A certificate, a key or a CA that cannot be used; the text names the file."""


class Pair(msgspec.Struct, frozen=True):
    """Certificate, key, and the CA that clients must have theirs from (None: they need none)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)


class Served(msgspec.Struct, frozen=True):
    """A context and when its certificate ends (seconds since the epoch; None when it is not valid today)."""

    context: ssl.SSLContext
    not_after: float | None
    pair: Pair


def load(pair: Pair) -> Served:
    """A context for a pair; raises PairError."""
    for path, remedy in ((pair.cert, ""), (pair.key, ""), (pair.client_ca, "; --cafile names it, --insecure=true goes without")):
        if path is not None:
            _check(path, remedy)
    context = _context(pair)
    try:
        context.load_cert_chain(pair.cert, pair.key)
    except ssl.SSLError as error:
        raise PairError(f"{pair.cert} and {pair.key}: {error.reason or error}") from error
    return Served(context, _not_after(context, pair.cert), pair)


def base_context(pair: Pair, newest: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """What a server listens with: it has no certificate of its own, only the newest context's."""
    context = _context(pair)

    def choose(connection: ssl.SSLObject, name: str | None, base: ssl.SSLContext) -> None:
        connection.context = newest()

    context.sni_callback = choose  # called for clients that name no server as well
    return context


def _check(path: Path, remedy: str) -> None:
    # ssl's own errors name no file.
    try:
        path.open("rb").close()
    except OSError as error:
        raise PairError(f"{path}: {error.strerror}{remedy}") from error


def _context(pair: Pair) -> ssl.SSLContext:
    # Not create_default_context: since Python 3.13 that refuses a client CA without key usage, as many clusters have.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # all that the API server speaks to webhooks
    # The API server resumes no sessions; tickets would only cost.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    if pair.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(pair.client_ca)
        except ssl.SSLError as error:
            raise PairError(f"{pair.client_ca}: {error.reason or error}") from error
    return context


def _not_after(server: ssl.SSLContext, cert: Path) -> float | None:
    """End of the certificate that a context serves: the standard library tells it of a peer only, so shake hands with ourselves."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate vouches for itself
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            return None  # ended or not begun by our clock: whether to believe it is up to the API server's
    found = ours.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(found["notAfter"]))) if "notAfter" in found else None
