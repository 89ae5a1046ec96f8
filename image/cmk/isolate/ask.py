"""A client of the agent: finds its socket, sends a request, reads the answer. Without an agent, direct mode's state may be there instead.

While no agent answers (it restarts, or has not started) the request is repeated, with jitter, until the deadline. A lost answer does no
harm: the same process gets the same answer.
"""

import _socket
import posix
from time import monotonic, sleep

from cmk.isolate.grammar import conf_dir, socket_number, timeout, variable
from cmk.isolate.say import LATER, NEVER, Failure, cut

STATE = "pools.json"  # of direct mode
_LONGEST = 107  # bytes of a path that a socket can have: sun_path with its end
_FIRST_PAUSE, _LAST_PAUSE = 0.02, 0.5


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
    """Path of the first socket at which an agent takes connections, or "" when there is none; raises Failure."""
    for path in _candidates(directory):
        connection, _ = _connect([path])
        if connection is not None:
            connection.close()
            return path
    return ""


def isolate(options: dict[str, str], cores: int) -> dict[str, str]:
    """Ask for CPUs, by the options of the command line; returns the workload's variables. Raises Failure."""
    request = (
        f"cmk/1 isolate\npool={options['--pool']}\ncores={cores}\nsocket={socket_number(options)}"
        f"\naffinity={0 if '--no-affinity' in options else 1}\non-move={options.get('--on-move', '')}"
    )
    path, reply, connection = _ask(request, conf_dir(options), monotonic() + timeout())
    connection.close()
    lines = (line.partition("=") for line in _body(reply).split("\n"))
    assigned = {name: value for name, joined, value in lines if joined and name.startswith("CMK_")}
    if "CMK_STATE" in assigned:  # relative to the socket: the agent does not know where its directory is mounted
        directory, slash, _ = path.rpartition("/")
        assigned["CMK_STATE"] = f"{directory}{slash}{assigned['CMK_STATE']}"
    return assigned


def show(what: str, directory: str) -> bytes:
    """The agent's whole answer to ``describe`` or ``node-report``; raises Failure, also when the answer breaks off."""
    deadline = monotonic() + timeout()
    path, reply, connection = _ask(f"cmk/1 {what}", directory, deadline)
    # An agent older than this key does not send it: its answer ends where the connection does.
    length = dict(line.partition("=")[::2] for line in _body(reply).split("\n")).get("length", "")
    length = length if length.isascii() and length.isdigit() else ""
    text, whole = b"", True
    try:
        while packet := connection.recv(65536):
            text += packet
            connection.settimeout(max(deadline - monotonic(), 0.001))
    except OSError:  # reset by an agent that ended, or no packet until the deadline
        whole = False
    connection.close()
    if not whole or length not in ("", str(len(text))):
        of_all = f" of {length}" if length else ""
        raise Failure(LATER, f"the answer of the agent at {path} broke off after {len(text)}{of_all} bytes; try again")
    return text


def _ask(request: str, directory: str, deadline: float) -> "tuple[str, bytes, _socket.socket]":
    """The first packet of the agent's answer, the path of the socket, and the connection for what may follow; raises Failure."""
    seconds = timeout()
    paths = _candidates(directory)
    if not variable("CMK_SOCKET") and not _fits(f"{directory}/agent.sock"):
        most = _LONGEST - len("/agent.sock")
        raise Failure(NEVER, f"--conf-dir={cut(directory)} is longer than the directory of a socket can be: {most} bytes")
    pause = _FIRST_PAUSE
    while True:
        connection, path = _connect(paths)
        if connection is not None:
            try:
                left = max(deadline - monotonic(), 0.001)
                connection.settimeout(left)
                connection.send(f"{request}\ntimeout={int(left * 1000)}".encode("utf-8", "surrogateescape"))
                if packet := connection.recv(65536):
                    return path, packet, connection
            except TimeoutError:
                pause = seconds
            except OSError:
                pass  # the agent ended: its successor answers
            connection.close()
        left = deadline - monotonic()
        if left <= 0:
            raise Failure(LATER, f"no cmk agent answered at {', '.join(paths)} within {seconds:g} s")
        sleep(min(pause * (0.5 + (monotonic() * 7919 + posix.getpid()) % 0.5), left))
        pause = min(pause * 2, _LAST_PAUSE)


def _body(reply: bytes) -> str:
    """The part of a reply after its first line; raises Failure if the reply is a refusal."""
    head, _, rest = reply.decode("utf-8", "replace").partition("\n")
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


def _connect(paths: list[str]) -> "tuple[_socket.socket | None, str]":
    for path in paths:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            connection.connect(path)
        except PermissionError as error:
            raise Failure(NEVER, f"may not connect to {path}: {error.strerror}") from None
        except OSError:
            connection.close()
        else:
            return connection, path
    return None, ""
