"""A client of the agent: finds its socket, sends a request, reads the answer. Without an agent, direct mode's state may be there instead.

While no agent answers (it restarts, or has not started) the request is repeated, with jitter, until the deadline. A lost answer does no
harm: the same process gets the same answer.
"""

import _socket
import posix
from sys import byteorder
from time import monotonic, sleep

from cmk.isolate.grammar import conf_dir, socket_number, timeout, variable
from cmk.isolate.say import LATER, NEVER, Failure, cut

STATE = "pools.json"  # of direct mode
_LONGEST = 107  # bytes of a path that a socket can have: sun_path with its end
_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5
_LONGEST_PACKET, _LONGEST_ANSWER = 65536, 64 << 20
_OVERFLOW_UID = 65534
_STDERR = 2
_LONGEST_IN_QUEUE, _MOMENT = 0.5, 0.001


def is_direct(directory: str) -> bool:
    """Whether a directory holds the state of direct mode, and no agent serves this host; raises Failure."""
    return not variable("CMK_SOCKET") and serves(directory) and not agent_at(directory)


def serves(directory: str) -> bool:
    """Whether a directory holds the state of direct mode."""
    try:
        posix.stat(f"{directory}/{STATE}")
    except OSError:
        return False
    return True


def agent_at(directory: str) -> str:
    """Path of the first socket at which an agent takes connections, and be it in a queue; "" when there is none. Raises Failure."""
    connection, path, _ = _connect(_candidates(directory), 0)
    if connection is not None:
        connection.close()
    return path


def isolate(options: dict[str, str], cores: int) -> dict[str, str]:
    """Ask for CPUs, by the options of the command line; returns the workload's variables. Raises Failure."""
    request = (
        f"cmk/1 isolate\npool={options['--pool']}\ncores={cores}\nsocket={socket_number(options)}"
        f"\naffinity={0 if '--no-affinity' in options else 1}\non-move={options.get('--on-move', '')}"
    )
    path, reply, connection = _ask(request, conf_dir(options), monotonic() + timeout())
    connection.close()
    lines = (line.partition("=") for line in _body(reply, path).split("\n"))
    assigned = {name: value for name, joined, value in lines if joined and name.startswith("CMK_")}
    if "CMK_STATE" in assigned:  # relative to the socket: the agent does not know where its directory is mounted
        directory, slash, _ = path.rpartition("/")
        assigned["CMK_STATE"] = f"{directory}{slash}{assigned['CMK_STATE']}"
    return assigned


def show(what: str, directory: str) -> bytes:
    """The agent's whole answer to ``describe`` or ``node-report``; raises Failure, also when the answer breaks off until the deadline."""
    deadline = monotonic() + timeout()
    while True:
        path, reply, connection = _ask(f"cmk/1 {what}", directory, deadline)
        # An agent older than this key does not send it: its answer ends where the connection does.
        length = dict(line.partition("=")[::2] for line in _body(reply, path).split("\n")).get("length", "")
        length = length if length.isascii() and length.isdigit() else ""
        text, is_whole = _rest(connection, path, deadline)
        connection.close()
        if is_whole and length in ("", str(len(text))):
            return text
        if deadline - monotonic() <= _LAST_PAUSE:
            of_all = f" of {length}" if length else ""
            raise Failure(LATER, f"the answer of the agent at {path} broke off after {len(text)}{of_all} bytes; try again")
        sleep(_LAST_PAUSE)  # it ended: its successor answers


def _rest(connection: "_socket.socket", path: str, deadline: float) -> tuple[bytes, bool]:
    """What follows the first packet, and whether the agent ended it; raises Failure."""
    text = bytearray()
    try:
        while packet := connection.recv(_LONGEST_PACKET + 1):
            if len(packet) > _LONGEST_PACKET or len(text) + len(packet) > _LONGEST_ANSWER:
                raise Failure(LATER, f"the answer of the agent at {path} is longer than {_LONGEST_ANSWER} bytes")
            text += packet
            connection.settimeout(max(deadline - monotonic(), 0.001))
    except OSError:  # reset by an agent that ended, or no packet until the deadline
        return bytes(text), False
    return bytes(text), True


def _ask(request: str, directory: str, deadline: float) -> "tuple[str, bytes, _socket.socket]":
    """The first packet of the agent's answer, the path of the socket, and the connection for what may follow; raises Failure."""
    seconds = timeout()
    paths = _candidates(directory)
    if not variable("CMK_SOCKET") and not _fits(f"{directory}/agent.sock"):
        most = _LONGEST - len("/agent.sock")
        raise Failure(NEVER, f"--conf-dir={cut(directory)} is longer than the directory of a socket can be: {most} bytes")
    pause, strange = _FIRST_PAUSE, ""
    while True:
        connection, path, found = _connect(paths, deadline)
        strange = found or strange
        if connection is not None:
            try:
                left = max(deadline - monotonic(), 0.001)
                connection.settimeout(left)
                connection.send(f"{request}\ntimeout={int(left * 1000)}".encode("utf-8", "surrogateescape"))
                if packet := connection.recv(_LONGEST_PACKET + 1):
                    return path, packet, connection
            except TimeoutError:
                pause = seconds
            except OSError:
                pass  # the agent ended: its successor answers
            connection.close()
        left = deadline - monotonic()
        if left <= 0:
            raise Failure(LATER, f"no cmk agent answered at {', '.join(paths)} within {seconds:g} s{strange}")
        sleep(min(pause * (0.5 + (monotonic() * 7919 + posix.getpid()) % 0.5), left))
        pause = min(pause * 2, _LAST_PAUSE)


def _body(reply: bytes, path: str) -> str:
    """The part of a reply from ``path`` after its first line; raises Failure if the reply is a refusal, or is none."""
    if len(reply) > _LONGEST_PACKET or b"\0" in reply:
        raise Failure(LATER, f"the answer of the agent at {path} has a NUL byte, or more than {_LONGEST_PACKET} bytes; try again")
    head, _, rest = reply.decode("utf-8", "surrogateescape").partition("\n")
    if head == "cmk/1 ok":
        return rest
    code = head.removeprefix("cmk/1 error ")
    if code in {str(LATER), str(NEVER)}:
        raise Failure(int(code), rest or "refused")
    raise Failure(NEVER, f'the agent answered "{cut(head)}", which this launcher does not understand')


def _candidates(directory: str) -> list[str]:
    """Where the agent's socket may be; raises Failure when CMK_SOCKET names a path that no socket can have."""
    if named := variable("CMK_SOCKET"):
        if not _fits(named):
            raise Failure(NEVER, f"CMK_SOCKET={cut(named)} is longer than the path of a socket can be: {_LONGEST} bytes")
        return [named]
    return [path for path in dict.fromkeys((f"{directory}/agent.sock", "/run/cmk/agent.sock")) if _fits(path)]


def _fits(path: str) -> bool:
    return len(path.encode("utf-8", "surrogateescape")) <= _LONGEST


def _connect(paths: list[str], deadline: float) -> "tuple[_socket.socket | None, str, str]":
    """A connection and its path, or None and the path of an agent whose queue is full; and what to say of a socket that was not root's.

    Raises Failure.
    """
    strange = full = ""
    for path in paths:
        connection = _new_socket()
        try:
            _connect_in_turn(connection, path, deadline)
            uid = int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], byteorder)
        except OSError as error:
            connection.close()
            if not isinstance(error, PermissionError | BlockingIOError):
                continue
            uid = _owner(path)
            if _may_be_root(uid):
                if isinstance(error, PermissionError):
                    raise Failure(NEVER, f"may not connect to {path}: {error.strerror}") from None
                full = full or path
                continue
        else:
            if _may_be_root(uid):
                return connection, path, strange
            connection.close()
        # Anybody may have put a socket of his own into a directory that he may write: only root's can be the agent.
        strange = f"; the socket at {path} belongs to user {uid} instead of root"
    return None, full, strange


def _connect_in_turn(connection: "_socket.socket", path: str, deadline: float) -> None:
    """Connect. While the queue of connections to the agent is full, take two chances in turn: wait for a moment in the kernel, or outside.

    The kernel wakes those who wait there one by one: that wins against others who try all the time without waiting. To come again wins
    against hundreds who wait, whose turns would come before. Either alone loses for seconds against the other kind. Raises OSError.
    """
    end, waits = min(monotonic() + _LONGEST_IN_QUEUE, deadline), False
    while True:
        try:
            return connection.connect(path)
        except BlockingIOError:
            if monotonic() >= end:
                raise
        waits = not waits
        if waits:
            # struct timeval: two longs
            moment = bytes(8) + int(_MOMENT * 1_000_000).to_bytes(8, byteorder)
            connection.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, moment)
        else:
            sleep(_MOMENT)
        connection.setblocking(waits)


def _new_socket() -> "_socket.socket":
    low = []  # descriptors of a process without standard ones: what it prints must not go to the agent
    while True:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        if connection.fileno() > _STDERR:
            break
        low.append(connection)
    for other in low:
        other.close()
    return connection


def _owner(path: str) -> int:
    try:
        return posix.lstat(path).st_uid
    except OSError:
        return 0


def _may_be_root(uid: int) -> bool:
    """Whether a uid can be that of root of the host.

    A user namespace in which that has no number (a pod with hostUsers: false) shows it as the overflow uid, like every other user from
    outside.
    """
    if uid != _OVERFLOW_UID:
        return uid == 0
    try:
        fd = posix.open("/proc/self/uid_map", posix.O_RDONLY | posix.O_CLOEXEC)
        ranges = posix.read(fd, 4096).split(b"\n")
        posix.close(fd)
    except OSError:
        return False
    return all(line.split()[1] != b"0" for line in ranges if line)
