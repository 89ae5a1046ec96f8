"""The server as the API server and its enemies see it, over real TLS on loopback."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmk.cli.app import app
from cmk.webhook import connections
from cmk.webhook import process as webhook_server
from tests.unit.webhook.serving import REVIEW, Server, configure, issue, serving, write, write_client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of servers forward: deadlines pass when a test says so, not while the machine is busy with something else."""
    ahead = [0.0]
    monkeypatch.setattr(connections.Loop, "time", lambda _: time.monotonic() + ahead[0])

    def forward(seconds: float) -> None:
        ahead[0] += seconds

    return forward


def until(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_review_is_answered(server: Server) -> None:
    status, text = server.ask()
    assert status == 200
    assert json.loads(text)["response"]["patchType"] == "JSONPatch"


def test_many_over_one_connection(server: Server) -> None:
    connection = server.connect()
    for _ in range(50):
        connection.request("POST", "/mutate", REVIEW)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        assert not answer.will_close
    connection.close()


def test_answers_do_not_wait_for_acknowledgements() -> None:
    with connections.listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_connections_outlive_the_api_servers_patience() -> None:
    assert webhook_server.KEEP_ALIVE_SECONDS > 90


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("POST", "/mutate", b"", 400),
        ("POST", "/mutate", b"{}", 400),
        ("POST", "/mutate", b"\x00" * 1000, 400),
        ("POST", "/", REVIEW, 404),
        ("GET", "/mutate", b"", 405),
        ("POST", "/metrics", REVIEW, 404),
    ],
)
def test_what_is_no_review_gets_a_clear_no(server: Server, method: str, path: str, data: bytes, status: int) -> None:
    assert server.ask(data, method=method, path=path)[0] == status
    assert server.ask()[0] == 200


def test_only_http_1_1_is_offered_over_tls_1_2_too(server: Server) -> None:
    context = server.context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    connection = server.connect(context)
    assert connection.sock.selected_alpn_protocol() == "http/1.1"
    connection.close()
    old = server.context()
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    server.connect(old).close()


def test_nothing_of_http_on_the_tls_port_disturbs_it(server: Server) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(500), b""):
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(data)
    assert server.ask()[0] == 200


@pytest.mark.parametrize("declared", [True, False])
def test_more_than_the_largest_review_is_refused(server: Server, *, declared: bool) -> None:
    connection = server.connect()
    chunk = b"x" * (1 << 20)
    headers = {"Content-Length": str(8 << 20)} if declared else {"Transfer-Encoding": "chunked"}
    connection.putrequest("POST", "/mutate")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    try:
        for _ in range(8):
            connection.send(chunk if declared else b"%x\r\n%b\r\n" % (len(chunk), chunk))
        status = connection.getresponse().status
    except OSError:
        status = 0  # it hung up while we were still sending, which is its right
    assert status in (0, 413)
    connection.close()
    assert server.ask()[0] == 200


def test_the_largest_review_is_read(server: Server) -> None:
    padded = json.loads(REVIEW)
    padded["request"]["object"]["metadata"]["annotations"] = {"x": "y" * (6 << 20)}
    assert server.ask(json.dumps(padded).encode())[0] == 200


def test_silent_and_slow_clients_delay_nobody_and_are_dropped(later: Callable[[float], None], server: Server) -> None:
    with ExitStack() as open_ones:
        silent = [open_ones.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(30)]
        slow = []
        for head in (b"", b"POST /mut", b"POST /mutate HTTP/1.1\r\nContent-Length: 9\r\n\r\n{"):
            connection = server.connect()
            connection.sock.sendall(head)
            slow.append(open_ones.enter_context(connection.sock))
        assert server.ask()[0] == 200  # and by now the server has met all of them
        later(max(connections.HANDSHAKE_SECONDS, connections.REQUEST_SECONDS))
        for connection in silent:
            connection.settimeout(10)
            assert connection.recv(1) == b""
        for connection in slow:
            connection.settimeout(10)
            assert _rest(connection) == b""
        assert server.ask()[0] == 200


def _rest(connection: socket.socket) -> bytes:
    found = b""
    try:
        while data := connection.recv(4096):
            found += data
    except (ConnectionResetError, ssl.SSLError):
        pass  # dropped without a goodbye
    return found


def test_a_second_request_must_come_whole_as_well(later: Callable[[float], None], server: Server) -> None:
    connection = server.connect()
    for _ in range(2):
        connection.request("POST", "/mutate", REVIEW)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        later(2 * connections.REQUEST_SECONDS)  # idle is not slow
        assert server.ask()[0] == 200
    connection.sock.sendall(b"POST /mut")
    assert server.ask()[0] == 200  # and by now the server has it
    later(2 * connections.REQUEST_SECONDS)
    connection.sock.settimeout(10)
    assert _rest(connection.sock) == b""
    connection.close()


def test_the_certificate_changes_under_open_connections(server: Server, tmp_path: Path) -> None:
    kept = server.connect()
    first = issue()
    write(tmp_path / "secret", first)
    new = Server(first.ca, server.port, server.health_port)

    def serves() -> bool:
        try:
            return new.ask()[0] == 200
        except ssl.SSLCertVerificationError:
            return False

    until(serves)
    kept.request("POST", "/mutate", REVIEW)
    assert kept.getresponse().status == 200
    kept.close()


def test_a_pair_that_does_not_match_is_not_used(server: Server, tmp_path: Path) -> None:
    one, other = issue(), issue()
    write(tmp_path / "secret", type(one)(one.cert, other.key, one.ca))
    until(lambda: "certificate: " in server.health("/readyz")[1])
    assert server.health("/readyz")[0] == 200
    assert "cmk_webhook_files_current 0.0" in server.health("/metrics")[1]
    assert server.ask()[0] == 200


def test_mutations_change_and_a_broken_file_keeps_the_last_good_ones(server: Server, tmp_path: Path) -> None:
    def label() -> bool:
        return b"labels" in base64.b64decode(json.loads(server.ask()[1])["response"]["patch"])

    (tmp_path / "mutations.yaml").write_text("mutations: {perPod: {metadata: {labels: {a: b}}}}")
    until(label)
    (tmp_path / "mutations.yaml").write_text("mutations: {perPod: {metadata: {name: x}}}")
    until(lambda: "perPod.metadata.name" in server.health("/readyz")[1])
    assert label()
    assert "cmk_webhook_reload_failures 1.0" in server.health("/metrics")[1]
    (tmp_path / "mutations.yaml").write_text("mutations: {}")
    until(lambda: not label())
    assert server.health("/readyz") == (200, "ok\n")


def test_another_port_takes_a_restart(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(path.read_text().replace('"port": 0', '"port": 1'))
    until(lambda: "server.port is 1 now: it takes a restart, until then it stays 0" in caplog.text)
    assert server.ask()[0] == 200


def test_figures_and_probes(server: Server) -> None:
    server.ask()
    server.ask(b"{}")
    assert server.health("/healthz") == (200, "ok")
    assert server.health("/nothing")[0] == 404
    text = server.health("/metrics")[1]
    assert 'cmk_webhook_reviews_total{outcome="mutated"} 1.0' in text
    assert 'cmk_webhook_reviews_total{outcome="malformed"} 1.0' in text
    (line,) = (line for line in text.splitlines() if line.startswith("cmk_webhook_certificate_not_after"))
    assert float(line.split()[1]) == pytest.approx(time.time() + 86400, abs=60)


@pytest.fixture
def clients(tmp_path: Path) -> dict[str, Path]:
    """Two CAs with a client each: NAME.ca, NAME.crt, NAME.key."""
    for name in ("ours", "theirs"):
        write_client(tmp_path, name)
    return {name: tmp_path / name for name in ("ours", "theirs")}


def heard(server: Server, client: Path | None) -> bool:
    pair = {"certfile": client.with_suffix(".crt"), "keyfile": client.with_suffix(".key")} if client else {}
    try:
        with closing(server.connect(server.context(**pair))) as connection:
            connection.request("POST", "/mutate", REVIEW)
            return connection.getresponse().status == 200
    except OSError:
        return False


def test_only_who_has_a_certificate_of_the_ca_is_heard(tmp_path: Path, clients: dict[str, Path]) -> None:
    with serving(tmp_path, client_ca=clients["ours"].with_suffix(".ca")) as server:
        assert heard(server, clients["ours"])
        assert not heard(server, clients["theirs"])
        assert not heard(server, None)
        assert server.health("/readyz")[0] == 200


def test_that_ca_changes_as_well(tmp_path: Path, clients: dict[str, Path]) -> None:
    ca = tmp_path / "client-ca.crt"
    ca.write_bytes(clients["ours"].with_suffix(".ca").read_bytes())
    with serving(tmp_path, client_ca=ca) as server:
        ca.write_bytes(clients["theirs"].with_suffix(".ca").read_bytes() + b"\n")
        until(lambda: heard(server, clients["theirs"]))
        assert not heard(server, clients["ours"])


def test_it_leaves_without_losing_a_call(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    issued = issue()
    write(tmp_path / "secret", issued)
    with subprocess.Popen(
        [sys.executable, "-m", "cmk", "webhook", f"--conf-file={configure(tmp_path)}", "--insecure=True", "--health-port=0"],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        ports = {}
        for line in process.stderr:
            if " on port " in line:
                words = line.split()
                ports[words[-4]] = int(words[-1])
            if len(ports) == 2:
                break
        server = Server(issued.ca, ports["reviews"], ports["health"])
        kept = server.connect()
        kept.request("POST", "/mutate", REVIEW)
        answer = kept.getresponse()
        assert not answer.will_close
        answer.read()
        process.send_signal(signal.SIGTERM)
        until(lambda: server.health("/readyz") == (503, "shutting down\n"))
        kept.request("POST", "/mutate", REVIEW)
        answer = kept.getresponse()
        assert (answer.status, answer.will_close) == (200, True)
        answer.read()
        assert server.ask()[0] == 200
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("server: {cert: /nowhere, key: /nowhere, port: 0}", "webhook: /nowhere: No such file or directory"),
        ("server: {cert: /nowhere}", "missing required field `key`"),
    ],
)
def test_it_does_not_begin_without_what_it_needs(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / "server.yaml").write_text(content)
    done = CliRunner().invoke(app, ["webhook", f"--conf-file={tmp_path}/server.yaml", "--insecure=True"])
    assert done.exit_code == 1
    assert line in done.output


def test_without_the_api_servers_ca_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    write(tmp_path / "secret", issue())
    done = CliRunner().invoke(app, ["webhook", f"--conf-file={configure(tmp_path)}", "--cafile=/nowhere"])
    assert done.exit_code == 1
    assert "webhook: /nowhere: No such file or directory; --cafile names it, --insecure=true goes without" in done.output
