"""``cmk isolate``: takes CPUs from the agent, or from direct mode's pools file, and becomes the workload.

By ``exec``, so that the workload is the process that is pinned; with ``--wait`` below a parent that waits. Both launch.c and run.c are
here: one more module would cost each start a third of a millisecond.
"""

import posix
import sys

from cmk.isolate import ask
from cmk.isolate.grammar import USAGE, conf_dir, cores, parse, socket_number, timeout, variable
from cmk.isolate.say import Failure, print_failure, program

_FORWARDED = (15, 1, 2, 3, 10, 12, 18, 28)
_SIGCHLD, _SIGPIPE, _SIGXFSZ = 17, 13, 25


def main(argv: list[str]) -> int:
    """Run the arguments of ``isolate``; returns the exit code unless this process becomes the workload."""
    try:
        return _isolate(argv)
    except Failure as failure:
        print_failure(failure)
        return failure.code


def _isolate(argv: list[str]) -> int:
    options, command = parse(argv)
    if "--help" in options:
        sys.stdout.write(USAGE)
        sys.stdout.flush()
        return 0
    if "--wait" in options and (status := _stay_as_parent()) is not None:
        return status
    number = cores()
    assigned = _allocate(options, number) if ask.is_direct(conf_dir(options)) else ask.isolate(options, number)
    if program() == "kcm" and "CMK_CPUS_ASSIGNED" in assigned:
        assigned["KCM_CPUS_ASSIGNED"] = assigned["CMK_CPUS_ASSIGNED"]
    raise _become(command, assigned)


def _allocate(options: dict[str, str], number: int) -> dict[str, str]:
    from cmk.isolate import local  # noqa: PLC0415  # json, which the agent's clients do not need, takes more time than all else

    return local.isolate(
        conf_dir(options),
        options["--pool"],
        number,
        socket_number(options),
        pin="--no-affinity" not in options,
        seconds=timeout(),
        procfs=variable("CMK_PROC_FS") or "/proc",
        on_move=options.get("--on-move", ""),
    )


def _become(command: list[str], variables: dict[str, str]) -> Failure:
    """Replace this process by a command, with these variables added to the environment; returns why it cannot be run."""
    environment = _workload_environment() | {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape") for name, value in variables.items()
    }
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
            if not isinstance(error, PermissionError):
                break
    _signal.signal(_SIGPIPE, _signal.SIG_IGN)  # again: nobody may read what is said now
    code = 127 if isinstance(failed, FileNotFoundError) else 126
    if code == 127 and " " in command[0]:
        return Failure(code, f"no program is named \"{command[0]}\"; for a shell line write: sh -- -c '{command[0]}'")
    return Failure(code, f"cannot run {command[0]}: {failed.strerror}")


def _stay_as_parent() -> int | None:
    """Fork; returns None in the child and, once the child has ended, its status in the parent."""
    import _signal  # noqa: PLC0415  # no stub; signal itself would import enum

    inherited = _signal.signal(_SIGCHLD, _signal.SIG_DFL)  # inherited as ignored, no end of a child would be seen
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, (*_FORWARDED, _SIGCHLD))
    child = posix.fork()
    if child == 0:
        _signal.signal(_SIGCHLD, inherited)
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


def _workload_environment() -> dict[bytes, bytes]:
    """The environment of this process, without the LC_CTYPE that Python adds at its start if no locale is set (PEP 538)."""
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
