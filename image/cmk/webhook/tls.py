"""TLS of the webhook's server, whose certificates change under open connections.

No certificate may be loaded into a context that is in use: a pair that does not match breaks every later handshake, and another type of key
is not noticed. So each change makes a new context, and a base context hands every handshake over to the newest good one.
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
    """Files of the certificate, the key, and the CA that must have signed a client's certificate (None: clients need none)."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the pair."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path is not None)


class Served(msgspec.Struct, frozen=True):
    """A context, and when its certificate ends (seconds since the epoch; None when it is not valid today)."""

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
        return Served(context, _not_after(context, pair.cert), pair)
    except ssl.SSLError as error:
        raise PairError(f"{pair.cert} and {pair.key}: {error.reason or error}") from error
    except ValueError as error:  # of a name in the certificate that is not UTF-8
        raise PairError(f"{pair.cert}: {error}") from error


def base_context(pair: Pair, newest: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """The context that a server listens with: it has no certificate, and uses the newest context's for every connection."""
    context = _context(pair)

    def choose(connection: ssl.SSLObject, name: str | None, base: ssl.SSLContext) -> None:
        connection.context = newest()

    context.sni_callback = choose  # also called for clients that name no server
    return context


def _check(path: Path, remedy: str) -> None:
    # The errors of ssl name no file.
    try:
        path.open("rb").close()
    except OSError as error:
        raise PairError(f"{path}: {error.strerror}{remedy}") from error
    except ValueError as error:  # of a path with a null byte
        raise PairError(f"{str(path)!r}: {error}{remedy}") from error


def _context(pair: Pair) -> ssl.SSLContext:
    # Not create_default_context: since Python 3.13 it refuses a client CA without key usage, as many clusters have.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])  # the API server speaks nothing else to webhooks
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
    """When a context's certificate ends. The standard library says this of a peer only, so the context shakes hands with a client here."""
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
            return None  # not valid by our clock; the API server judges by its own
    fields = ours.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(str(fields["notAfter"]))) if "notAfter" in fields else None
