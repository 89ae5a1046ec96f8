import errno
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest

from cmk.host import peer as peer_module
from cmk.host.peer import Peer, has_ended, open_process, peer_of
from cmk.host.procfs import Procfs
from cmk.model.tasks import Process


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


class Connection:
    """A connection whose peer had this pid and user, on a kernel that answers the question for a descriptor with an error."""

    def __init__(self, pid: int, uid: int, error: int) -> None:
        self._credentials = struct.pack("3i", pid, uid, os.getgid())
        self._error = error
        self._ends = socket.socketpair()

    def getsockopt(self, _: int, option: int, __: int) -> bytes:
        if option == socket.SO_PEERCRED:
            return self._credentials
        raise OSError(self._error, os.strerror(self._error))

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def close(self) -> None:
        for end in self._ends:
            end.close()


def ask(connection: Connection) -> object:
    try:
        return peer_of(connection)  # type: ignore[arg-type]
    finally:
        connection.close()


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ESRCH])
def test_a_pid_is_not_believed_on_a_kernel_that_knows_the_peer_has_ended(error: int) -> None:
    with pytest.raises(ProcessLookupError):
        ask(Connection(os.getpid(), os.getuid(), error))


def test_a_lack_of_descriptors_is_no_reason_to_believe_a_pid() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        ask(Connection(os.getpid(), os.getuid(), errno.EMFILE))


def test_a_pid_is_not_believed_when_another_user_s_process_has_it() -> None:
    with pytest.raises(ProcessLookupError):
        ask(Connection(os.getpid(), os.getuid() + 1, errno.ENOPROTOOPT))


def test_a_pid_is_not_believed_when_its_process_started_after_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", lambda _: 0.0)
    with pytest.raises(ProcessLookupError):
        ask(Connection(os.getpid(), os.getuid(), errno.ENOPROTOOPT))


def test_a_peer_that_has_ended_is_a_lookup_error_although_its_child_holds_the_connection(listener: socket.socket) -> None:
    code = CLIENT.replace("time.sleep(60)", "child=os.fork();child or time.sleep(60);print(child,flush=True);os._exit(0)")
    line = ["python3", "-c", code.replace("import socket", "import os,socket"), listener.getsockname()]
    with listener, subprocess.Popen(line, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        child = int(client.stdout.readline())
        client.wait()
        connection, _ = listener.accept()
        with connection, pytest.raises(ProcessLookupError):
            peer_of(connection)
        os.kill(child, 9)


def test_what_was_read_of_a_peer_that_has_ended_may_be_another_s() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        peer = Peer(child.pid, os.pidfd_open(child.pid))
        assert peer.read(lambda pid: pid) == child.pid
        child.kill()
        child.wait()
        with pytest.raises(ProcessLookupError):
            peer.read(lambda _: "of another")
        os.close(peer.pidfd)


def test_a_pid_that_is_a_thread_s_by_now_is_no_process() -> None:
    held = threading.Event()
    thread = threading.Thread(target=held.wait)
    thread.start()
    assert thread.native_id is not None
    with pytest.raises(ProcessLookupError):
        open_process(Procfs(), Process(thread.native_id, 1))
    held.set()
    thread.join()
