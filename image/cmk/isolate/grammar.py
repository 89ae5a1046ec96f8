"""The command line of ``cmk isolate`` and the environment variables that it reads."""

import posix

from cmk.isolate.say import NEVER, Failure, cut, program

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

USAGE = """\
cmk isolate --pool=POOL [OPTIONS] COMMAND [-- ARGS...]
Run COMMAND on CPUs of a pool: the process keeps its pid, and its CPUs are released when it ends.
The first -- ends the options. Before COMMAND or directly after it, cmk removes it; elsewhere it is passed on to COMMAND.

  --pool=POOL       exclusive, shared, infra or another pool of this node
  --socket-id=NUM   only CPUs of this socket; -1 (default) is any
  --no-affinity     take the CPUs but leave the affinity alone: COMMAND places itself by CMK_CPUS_ASSIGNED
  --wait            stay as parent: forward signals, reap, return the status of COMMAND
  --on-move=HOW     what happens when the pools change: follow (default), pinned (such a change is refused), notify (CMK_STATE names a
                    file with its current CPUs) or notify:SIGNAL (the signal is sent as well)
  --conf-dir=DIR    also look for the agent's socket in DIR (default /etc/cmk, for kcm /etc/kcm)
  --namespace, --install-dir   accepted without effect

Reads CMK_NUM_CORES (lists to take from an exclusive pool, default 1), CMK_LOCK_TIMEOUT (seconds to wait, default 30), CMK_SOCKET.
Sets CMK_CPUS_ASSIGNED, CMK_CPUS_ASSIGNED_MASK, CMK_CPUS_SHARED, CMK_CPUS_INFRA; with notify CMK_STATE.
Exit: that of COMMAND; 75 try again later, 78 will never work, 126 and 127 as of a shell.
"""


def parse(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options and command of ``isolate``; raises Failure."""
    options: dict[str, str] = {}
    words: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            if len(words) > 1:  # CMK removed only one directly after the command
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
            socket_number(options)
        if name == "--help":
            return options, []
    words += rest
    if "--pool" not in options:
        raise Failure(NEVER, f"--pool is missing{_SEE}")
    pool = options["--pool"]
    if not pool or len(pool.encode("utf-8", "surrogateescape")) > 253 or any(char in pool for char in "\n\r=\t "):
        raise Failure(NEVER, f"--pool={cut(pool)} is not a valid pool name{_SEE}")
    how = options.get("--on-move", "")
    if len(how.encode("utf-8", "surrogateescape")) > 40 or any(char in how for char in "\n\r=\t "):
        raise Failure(NEVER, f"--on-move={cut(how)} is none of follow, pinned, notify, notify:SIGNAL{_SEE}")
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
    candidates = [option for option in _OPTIONS if option.startswith(name)]
    if len(candidates) > 1:
        raise Failure(NEVER, f"option {word} could be {candidates[0]} or {candidates[1]}{_SEE}")
    return candidates[0] if candidates else ""


def conf_dir(options: dict[str, str]) -> str:
    """The directory of the agent's socket or of direct mode's state; kcm and CMK had different defaults."""
    return options.get("--conf-dir", f"/etc/{program()}")


def socket_number(options: dict[str, str]) -> int:
    """The socket of ``--socket-id``, -1 for any; raises Failure."""
    text = options.get("--socket-id", "-1")
    number = number_in(text, 65535)
    if number < 0 and text != "-1":
        raise Failure(NEVER, f"--socket-id={text} is not a valid socket number; -1 means any{_SEE}")
    return number


def cores() -> int:
    """How many CPU lists of an exclusive pool CMK_NUM_CORES asks for; raises Failure."""
    text = variable("CMK_NUM_CORES") or "1"
    number = number_in(text, 65536)
    if number < 1:
        raise Failure(NEVER, f'CMK_NUM_CORES is "{cut(text)}": it must be a whole number of CPU lists, 1 to 65536')
    return number


def timeout() -> float:
    """Seconds of CMK_LOCK_TIMEOUT, in whole milliseconds; raises Failure."""
    text = variable("CMK_LOCK_TIMEOUT") or "30"
    digits = text.replace(".", "", 1)
    seconds = float(text) if digits.isascii() and digits.isdigit() else 0.0
    if not 0.001 <= seconds <= 86400:
        raise Failure(NEVER, f'CMK_LOCK_TIMEOUT is "{cut(text)}": it must be a number of seconds, 0.001 to 86400')
    return int(seconds * 1000) / 1000


def variable(name: str) -> str:
    """The value of an environment variable ``CMK_...``; when it is unset or empty, that of ``KCM_...``; "" without either."""
    value: bytes = posix.environ.get(name.encode()) or posix.environ.get(name.replace("CMK_", "KCM_", 1).encode(), b"")
    return value.decode("utf-8", "surrogateescape")


def number_in(text: str, most: int) -> int:
    """The value of decimal digits, without sign, blank or underscore; -1 for any other text and for values above ``most``."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdigit()) or len(digits) > len(str(most)):
        return -1
    number = int(digits or "0")
    return number if number <= most else -1
