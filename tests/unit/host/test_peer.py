import os
import socket
import subprocess
from pathlib import Path

import pytest

from cmk.host import peer as peer_module
from cmk.host.peer import has_ended, peer_of


@pytest.fixture
def listener(tmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(tmp_path / "s"))
    sock.listen()
    return sock


CLIENT = "import socket,sys,time;s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET);s.connect(sys.argv[1]);time.sleep(60)"


@pytest.mark.parametrize("option", [peer_module.SO_PEERPIDFD, 9999])
def test_a_peer_is_a_process_and_its_end_shows(listener: socket.socket, monkeypatch: pytest.MonkeyPatch, option: int) -> None:
    monkeypatch.setattr(peer_module, "SO_PEERPIDFD", option)  # 9999: as on kernels before 6.5
    with listener, subprocess.Popen(["python3", "-c", CLIENT, listener.getsockname()]) as client:
        connection, _ = listener.accept()
        with connection:
            peer = peer_of(connection)
        assert peer.pid == client.pid
        assert not os.get_inheritable(peer.pidfd)
        assert not has_ended(peer.pidfd)
        client.kill()
        client.wait()
        assert has_ended(peer.pidfd)
        os.close(peer.pidfd)


def test_a_peer_that_has_ended_is_a_lookup_error_without_the_option(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "SO_PEERPIDFD", 9999)
    with listener:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(listener.getsockname())
            connection, _ = listener.accept()
        with connection, pytest.raises(ProcessLookupError):
            peer_of(connection)
