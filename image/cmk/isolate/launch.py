"""``cmk isolate`` in Python: what the static launcher does, word for word, for images with Python and hosts without the launcher.

Imports builtin modules only: argparse alone would double the time until the workload runs. Nothing here may import from the rest of cmk.
"""

import _socket
import posix
import sys
from time import monotonic, sleep

from cmk import __version__

LATER, NEVER = 75, 78
STATE = "pools.json"  # of direct mode
_SEE = "; see cmk isolate --help"
_OPTIONS = {
    "--pool": True,
    "--socket-id": True,
    "--conf-dir": True,
    "--namespace": True,
    "--install-dir": True,
    "--no-affinity": False,
    "--on-move": True,
    "--wait": False,
    "--help": False,
}
_FORWARDED = (15, 1, 2, 3, 10, 12, 18, 28)
_SIGCHLD, _SIGPIPE, _SIGXFSZ = 17, 13, 25

USAGE = """\
cmk isolate --pool=POOL [OPTIONS] COMMAND [-- ARGS...]
Run COMMAND on CPUs of a pool: the process keeps its pid, and the CPUs come free when it ends.
The first -- ends the options. Before COMMAND or directly after it, it is cmk's; elsewhere it is passed on to COMMAND.

  --pool=POOL       exclusive, shared, infra or another pool of this node
  --socket-id=NUM   only CPUs of this socket; -1 (default) is any
  --no-affinity     take the CPUs but leave the affinity alone: COMMAND places itself by CMK_CPUS_ASSIGNED
  --wait            stay as parent: forward signals, reap, return the status of COMMAND
  --on-move=HOW     what happens when the pools change: follow (default), pinned (such a change is refused), notify (CMK_STATE names a
                    file with the CPUs of the moment) or notify:SIGNAL (and that signal is sent)
  --conf-dir=DIR    also look for the agent's socket in DIR (default /etc/cmk)
  --namespace, --install-dir   accepted and without meaning

Reads CMK_NUM_CORES (lists to take from an exclusive pool, default 1), CMK_LOCK_TIMEOUT (seconds to wait, default 30), CMK_SOCKET.
Sets CMK_CPUS_ASSIGNED, CMK_CPUS_ASSIGNED_MASK, CMK_CPUS_SHARED, CMK_CPUS_INFRA; with notify CMK_STATE.
Exit: that of COMMAND; 75 try again later, 78 will never work, 126 and 127 as a shell has them.
"""


class Failure(Exception):  # the end of the program, not a fault of it
    """The line to print and the code to exit with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def main(argv: list[str], *, kcm: bool = False) -> int:
    """Run the arguments of ``isolate``; returns the exit code when it does not become the workload. ``kcm``: we were called so."""
    try:
        return _isolate(argv, kcm=kcm)
    except Failure as failure:
        text = "".join(char if char.isprintable() else "?" for char in f"cmk: {failure}")
        line = f"{text}\n".encode("utf-8", "surrogateescape")
        for name in (2, "/dev/termination-log"):
            try:
                fd = name if isinstance(name, int) else posix.open(name, posix.O_WRONLY | posix.O_APPEND | posix.O_CLOEXEC)
                posix.write(fd, line)
            except OSError:
                continue  # no such file, or nobody listens: the exit code has to do
        return failure.code


def parse(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options and command of ``isolate``; raises Failure."""
    options: dict[str, str] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            if len(words) > 1:  # CMK took out only one directly after the command
                rest.insert(0, word)
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        name = _find(word)
        if not name:
            if words:
                rest.insert(0, word)
                break
            raise Failure(NEVER, f"unknown option {word}{_SEE}")
        if name in options:
            raise Failure(NEVER, f"{name} is given twice{_SEE}")
        _, joined, value = word.partition("=")
        if _OPTIONS[name] and not joined:
            if not rest:
                raise Failure(NEVER, f"{name} needs a value{_SEE}")
            value = rest.pop(0)
        elif joined and not _OPTIONS[name]:
            raise Failure(NEVER, f"{name} takes no value{_SEE}")
        options[name] = value
        if name == "--socket-id":
            _socket_number(value)
        if name == "--help":
            return options, []
    words += rest
    if "--pool" not in options:
        raise Failure(NEVER, f"--pool is missing{_SEE}")
    pool = options["--pool"]
    if not pool or len(pool.encode("utf-8", "surrogateescape")) > 253 or any(char in pool for char in "\n\r=\t "):
        raise Failure(NEVER, f"--pool={pool[:40]} is no pool name{_SEE}")
    how = options.get("--on-move", "")
    if len(how.encode("utf-8", "surrogateescape")) > 40 or any(char in how for char in "\n\r=\t "):
        raise Failure(NEVER, f"--on-move={how[:40]} is none of follow, pinned, notify, notify:SIGNAL{_SEE}")
    if not words:
        raise Failure(NEVER, f"no command to run{_SEE}")
    return options, words


def _find(word: str) -> str:
    if word == "-h":
        return "--help"
    name = word.partition("=")[0]
    if len(name) < 3 or not name.startswith("--"):
        return ""
    if name in _OPTIONS:
        return name
    found = [option for option in _OPTIONS if option.startswith(name)]
    if len(found) > 1:
        raise Failure(NEVER, f"option {word} could be {found[0]} or {found[1]}{_SEE}")
    return found[0] if found else ""


def _socket_number(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or not -1 <= int(text) <= 65535:
        raise Failure(NEVER, f"--socket-id={text} is no socket number; -1 means any{_SEE}")
    return int(text)


def _isolate(argv: list[str], *, kcm: bool) -> int:
    options, command = parse(argv)
    if "--help" in options:
        sys.stdout.write(USAGE)
        sys.stdout.flush()
        return 0
    if "--wait" in options and (status := _stay_as_parent()) is not None:
        return status
    environment = _workload_environment()
    conf_dir = options.get("--conf-dir", "/etc/kcm" if kcm else "/etc/cmk")
    text = _variable("CMK_NUM_CORES") or "1"
    if not (text.isascii() and text.isdigit()) or not 0 < int(text) <= 65536:
        raise Failure(NEVER, f'Requested numbers of cores must be positive integer, CMK_NUM_CORES is "{text[:40]}"')
    if _is_direct(conf_dir):
        from cmk.isolate import local  # noqa: PLC0415  # json costs what the agent's clients need not pay

        socket = _socket_number(options.get("--socket-id", "-1"))
        assigned = local.isolate(
            conf_dir,
            options["--pool"],
            int(text),
            socket,
            pin="--no-affinity" not in options,
            seconds=timeout(),
            procfs=_variable("CMK_PROC_FS") or "/proc",
            on_move=options.get("--on-move", ""),
        )
        return _exec(command, environment | _variables(assigned, kcm))
    request = (
        f"cmk/1 isolate\npool={options['--pool']}\ncores={int(text)}\nsocket={_socket_number(options.get('--socket-id', '-1'))}"
        f"\naffinity={0 if '--no-affinity' in options else 1}\non-move={options.get('--on-move', '')}"
    )
    path, reply = next(_ask(request, conf_dir))
    lines = (line.partition("=") for line in _body(reply).split("\n"))
    assigned = {name: value for name, joined, value in lines if joined and name.startswith("CMK_")}
    if "CMK_STATE" in assigned:  # the agent does not know where its directory is mounted
        directory, slash, _ = path.rpartition("/")
        assigned["CMK_STATE"] = f"{directory}{slash}{assigned['CMK_STATE']}"
    return _exec(command, environment | _variables(assigned, kcm))


def _variables(assigned: dict[str, str], kcm: bool) -> dict[bytes, bytes]:
    if kcm and "CMK_CPUS_ASSIGNED" in assigned:
        assigned["KCM_CPUS_ASSIGNED"] = assigned["CMK_CPUS_ASSIGNED"]
    return {name.encode(): value.encode() for name, value in assigned.items()}


def _is_direct(conf_dir: str) -> bool:
    """Whether a directory holds the state of direct mode, and no agent serves this host."""
    return not _variable("CMK_SOCKET") and serves(conf_dir) and not agent_at(conf_dir)


def serves(directory: str) -> bool:
    """Whether there is direct mode's state in a directory."""
    try:
        posix.stat(f"{directory}/{STATE}")
    except OSError:
        return False
    return True


def agent_at(conf_dir: str) -> str:
    """Path of the first socket at which an agent takes connections, or "" when there is none; raises Failure."""
    for path in _candidates(conf_dir):
        connection, _ = _connect([path])
        if connection is not None:
            connection.close()
            return path
    return ""


def show(what: str, conf_dir: str):  # type: ignore[no-untyped-def]  # noqa: ANN201  # an iterator of bytes; typing is not builtin
    """The agent's answer to ``describe`` or ``node-report``, packet by packet; raises Failure."""
    packets = _ask(f"cmk/1 {what}", conf_dir)
    _body(next(packets)[1])
    for _, packet in packets:
        yield packet


def _body(reply: bytes) -> str:
    """What follows the first line of a reply; raises Failure for a refusal."""
    head, _, rest = reply.decode("utf-8", "replace").partition("\n")
    if head == "cmk/1 ok":
        return rest
    code = head.removeprefix("cmk/1 error ")
    if code in {str(LATER), str(NEVER)}:
        raise Failure(int(code), rest or "refused")
    raise Failure(NEVER, f'the agent answered "{head[:40]}", which this launcher does not understand')


def _ask(request: str, conf_dir: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  # an iterator of (str, bytes); typing is not builtin
    """Packets of the agent's answer, each with the socket's path; asks again until one comes or the deadline passes."""
    whole = timeout()
    deadline = monotonic() + whole
    paths = _candidates(conf_dir)
    pause = 0.02
    while True:
        connection, path = _connect(paths)
        if connection is not None:
            try:
                left = max(deadline - monotonic(), 0.001)
                connection.settimeout(left)
                connection.send(f"{request}\ntimeout={int(left * 1000)}".encode("utf-8", "surrogateescape"))
                packet = connection.recv(65536)
            except TimeoutError:
                packet, pause = b"", whole
            except OSError:
                packet = b""
            if packet:
                while packet:
                    yield path, packet
                    packet = connection.recv(65536)
                return
            connection.close()
        left = deadline - monotonic()
        if left <= 0:
            raise Failure(LATER, f"no cmk agent answered at {', '.join(paths)} within {whole:g} s")
        sleep(min(pause * (0.5 + (monotonic() * 7919 + posix.getpid()) % 0.5), left))
        pause = min(pause * 2, 0.5)


def _candidates(conf_dir: str) -> list[str]:
    named = _variable("CMK_SOCKET")
    if named:
        return [named]
    return list(dict.fromkeys((f"{conf_dir}/agent.sock", "/run/cmk/agent.sock")))


def _connect(paths: list[str]) -> "tuple[_socket.socket | None, str]":
    for path in paths:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        try:
            connection.connect(path)
        except PermissionError as error:
            raise Failure(NEVER, f"may not connect to {path}: {error.strerror}") from None
        except OSError as error:
            if error.errno is None:  # longer than the kernel allows
                raise Failure(NEVER, f"socket path {path[:60]}... is longer than the kernel allows") from None
            connection.close()
        else:
            return connection, path
    return None, ""


def timeout() -> float:
    """Seconds of CMK_LOCK_TIMEOUT; raises Failure."""
    text = _variable("CMK_LOCK_TIMEOUT") or "30"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise Failure(NEVER, f'CMK_LOCK_TIMEOUT is "{text[:40]}": it must be a positive number of seconds')
    return seconds


def _variable(name: str) -> str:
    value: bytes = posix.environ.get(name.encode()) or posix.environ.get(name.replace("CMK_", "KCM_", 1).encode(), b"")
    return value.decode("utf-8", "surrogateescape")


def _workload_environment() -> dict[bytes, bytes]:
    """Our own, without the LC_CTYPE that Python exports at its start when no locale is set (PEP 538)."""
    environment = dict(posix.environ)
    if b"LC_CTYPE" in environment:
        try:
            fd = posix.open("/proc/self/environ", posix.O_RDONLY | posix.O_CLOEXEC)
            started = b""
            while chunk := posix.read(fd, 1 << 20):
                started += chunk
            posix.close(fd)
        except OSError:
            return environment
        if not any(entry.startswith(b"LC_CTYPE=") for entry in started.split(b"\0")):
            del environment[b"LC_CTYPE"]
    return environment


def _exec(command: list[str], environment: dict[bytes, bytes]) -> int:
    import _signal  # type: ignore[import-not-found]  # noqa: PLC0415  # no stub; signal itself would import enum

    for number in (_SIGPIPE, _SIGXFSZ):  # Python ignores them, and ignored signals stay ignored across exec
        _signal.signal(number, _signal.SIG_DFL)
    argv = [word.encode("utf-8", "surrogateescape") for word in command]
    failed: OSError = FileNotFoundError(2, "No such file or directory")
    directories = [b""] if b"/" in argv[0] else environment.get(b"PATH", b"/usr/local/bin:/bin:/usr/bin").split(b":")
    for directory in directories if argv[0] else []:  # no file has an empty name
        try:
            posix.execve(directory + b"/" + argv[0] if directory else argv[0], argv, environment)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failed = error
    code = 127 if isinstance(failed, FileNotFoundError) else 126
    if code == 127 and " " in command[0]:
        raise Failure(code, f"no program is named \"{command[0]}\"; for a shell line write: sh -- -c '{command[0]}'")
    raise Failure(code, f"cannot run {command[0]}: {failed.strerror}")


def _stay_as_parent() -> int | None:
    """Fork; None in the child, the child's status in the parent once it has ended."""
    import _signal  # noqa: PLC0415  # no stub; signal itself would import enum

    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, (*_FORWARDED, _SIGCHLD))
    child = posix.fork()
    if child == 0:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        return None
    while True:
        number = _signal.sigwait((*_FORWARDED, _SIGCHLD))
        if number != _SIGCHLD:
            posix.kill(child, number)
            continue
        while True:
            try:
                ended, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                break
            if ended == child:
                return 128 + posix.WTERMSIG(status) if posix.WIFSIGNALED(status) else posix.WEXITSTATUS(status)
            if ended == 0:
                break


def version() -> str:
    """What ``--version`` prints."""
    return f"cmk {__version__}"
