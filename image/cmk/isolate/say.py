"""Messages of ``cmk isolate`` to its user, and the exit codes that go with them."""

import posix
import sys

LATER, NEVER = 75, 78  # sysexits: EX_TEMPFAIL, EX_CONFIG
_STDERR = 2
_LONGEST = 4094  # bytes of a line before its end; Kubernetes shows 4096 of a termination log


class Failure(Exception):  # the end of the program, not a fault of it
    """The line to print and the code to exit with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def program() -> str:
    """The name that the program was called by: ``cmk``, or ``kcm`` with its older words."""
    return "kcm" if sys.argv[0].rpartition("/")[2] == "kcm" else "cmk"


def cut(text: str) -> str:
    """The first 40 bytes of a value that a message repeats."""
    return text.encode("utf-8", "surrogateescape")[:40].decode("utf-8", "surrogateescape")


def print_failure(failure: Failure) -> None:
    """Print a failure where Kubernetes shows why a container ended, and on standard error."""
    line = _line(f"{program()}: {failure}")
    flags = posix.O_WRONLY | posix.O_APPEND | posix.O_NONBLOCK | posix.O_NOCTTY | posix.O_CLOEXEC
    for name in ("/dev/termination-log", _STDERR):
        try:
            fd = name if isinstance(name, int) else posix.open(name, flags)
            posix.write(fd, line)
        except OSError:
            continue  # no such file, or it is full, or nobody listens: the exit code has to do
        if fd == _STDERR:  # the log has its number when it was closed
            return


def _line(text: str) -> bytes:
    """One line without control characters, for a value from outside must not add lines or terminal sequences."""
    line = bytearray(text.encode("utf-8", "surrogateescape")[:_LONGEST])
    for index, byte in enumerate(line):
        if byte < 32 or byte == 127:
            line[index] = 63
        elif byte == 0xC2 and 0x80 <= (line[index + 1 : index + 2] or b"\0")[0] <= 0x9F:  # U+0080 to U+009F
            line[index : index + 2] = b"??"
    return bytes(line) + b"\n"
