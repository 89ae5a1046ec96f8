"""What ``cmk isolate`` says to its user, and the exit codes that go with it."""

import posix

LATER, NEVER = 75, 78  # sysexits: EX_TEMPFAIL, EX_CONFIG


class Failure(Exception):  # the end of the program, not a fault of it
    """The line to print and the code to exit with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def print_failure(failure: Failure) -> None:
    """Print a failure on standard error, and where Kubernetes shows why a container ended."""
    text = "".join(char if char.isprintable() else "?" for char in f"cmk: {failure}")
    line = f"{text}\n".encode("utf-8", "surrogateescape")
    for name in (2, "/dev/termination-log"):
        try:
            fd = name if isinstance(name, int) else posix.open(name, posix.O_WRONLY | posix.O_APPEND | posix.O_CLOEXEC)
            posix.write(fd, line)
        except OSError:
            continue  # no such file, or nobody listens: the exit code has to do
