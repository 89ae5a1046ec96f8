"""The launcher in both languages against an agent that says what a test tells it to."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
SOURCES = REPO / "image/launcher"
Reply = bytes | list[bytes] | None
OK = b"cmk/1 ok\nCMK_CPUS_ASSIGNED=3,11\nCMK_CPUS_ASSIGNED_MASK=808\nCMK_CPUS_SHARED=1\nCMK_CPUS_INFRA=0,2"


def unread(connection: socket.socket) -> int:
    """Bytes sent that the peer has not received."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4), sys.byteorder)


class FakeAgent:
    """Serves a SEQPACKET socket from a thread. The nth client gets the nth reply (the last again and again); None closes without a word.

    With ``reset`` the connection is reset once the client has read the reply: the request is still unread when it is closed. The socket is
    that of user ``uid`` to its clients.
    """

    def __init__(self, path: Path, *replies: Reply, reset: bool = False, uid: int = 0) -> None:
        self.requests: list[dict[str, str]] = []
        self._flags = socket.MSG_PEEK if reset else 0
        self._replies = list(replies)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        os.seteuid(uid)  # whose socket it is, is decided here
        try:
            self._socket.listen(64)
        finally:
            os.seteuid(0)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                if not (data := client.recv(65536, self._flags)):
                    continue  # it has seen who serves here
                head, *lines = data.decode().split("\n")
                self.requests.append({"": head, **dict(line.split("=", 1) for line in lines)})
                reply = self._replies[0] if len(self._replies) == 1 else self._replies.pop(0)
                for packet in reply if isinstance(reply, list) else [reply] if reply else []:
                    try:
                        client.send(packet)
                    except OSError:
                        break  # the client has gone
                while self._flags and unread(client):
                    time.sleep(0.001)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


class Launcher:
    """The launcher in one language."""

    def __init__(self, language: str, command: list[str], home: Path) -> None:
        self.language = language
        self.command = command
        self.socket = home / "agent.sock"

    def environment(self, **variables: str) -> dict[str, str]:
        """What a container would have, and where the agent is."""
        return {"PATH": os.environ["PATH"], "CMK_SOCKET": str(self.socket), "CMK_LOCK_TIMEOUT": "20", **variables}

    def run(self, *args: str, env: dict[str, str] | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        environment = self.environment(**variables) if env is None else env
        return subprocess.run([*self.command, *args], env=environment, capture_output=True, text=True, check=False, timeout=60)

    def run_raw(self, *args: str) -> subprocess.CompletedProcess[bytes]:
        """Run to the end; the output is bytes."""
        return subprocess.run([*self.command, *args], env=self.environment(), capture_output=True, check=False, timeout=60)

    @contextmanager
    def start(self, *args: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Run in the background, and not longer than the block."""
        environment = self.environment(**variables)
        with subprocess.Popen(
            [*self.command, *args], env=environment, stdout=subprocess.PIPE, text=True, process_group=0
        ) as process:
            try:
                yield process
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def launchers(home: Path, built: Path, program: str = "cmk") -> list[Launcher]:
    """Both, the static one first, called by a name; their agent's socket is in ``home``."""
    directory = home / "opt"  # without a socket beside the launcher
    directory.mkdir(exist_ok=True)
    static = shutil.copy(built, directory / program)
    script = f"import sys; sys.argv[0] = {program!r}; from cmk.__main__ import main; sys.exit(main())"
    return [Launcher("c", [str(static)], home), Launcher("python", [sys.executable, "-c", script], home)]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C launcher, compiled once for every state of its sources."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))).hexdigest()[:16]
    cache = Path(os.environ["CMK_CACHE"]) if "CMK_CACHE" in os.environ else tmp_path_factory.mktemp("cache")
    program = cache / f"launcher-{digest}/cmk-{os.uname().machine}"
    if not program.exists():
        environment = {**os.environ, "PYTHON": sys.executable}
        fresh = tmp_path_factory.mktemp("launcher")
        subprocess.run([SOURCES / "build", fresh, os.uname().machine], env=environment, check=True)
        program.parent.mkdir(exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")  # an interrupted copy must not pass for a launcher ever after
        shutil.copy(fresh / program.name, partial)
        partial.replace(program)
    return program


@pytest.fixture(params=["c", "python"])
def launcher(request: pytest.FixtureRequest, tmp_path: Path, built: Path) -> Launcher:
    """Each test runs with both."""
    return launchers(tmp_path, built)[request.param == "python"]


@pytest.fixture
def agent() -> Iterator[Callable[..., FakeAgent]]:
    """Start agents; they end with the test."""
    started: list[FakeAgent] = []

    def start(path: Path, *replies: Reply, reset: bool = False, uid: int = 0) -> FakeAgent:
        started.append(FakeAgent(path, *replies, reset=reset, uid=uid))
        return started[-1]

    yield start
    for one in started:
        one.close()
