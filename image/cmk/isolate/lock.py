"""The lock of direct mode: a file in the directory of the pools, which its owner alone can open. For direct mode."""

import fcntl
import posix
from time import monotonic, sleep

from cmk.isolate.say import LATER, NEVER, Failure

LOCK = "lock"
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.1


class Lock:
    """The lock on ``DIR/lock``, held for a block; the file has the holder's pid. Raises Failure at the deadline (of ``monotonic``).

    The file is its owner's alone, for whoever may read it can hold the lock.
    """

    def __init__(self, directory: str, deadline: float) -> None:
        self._path = f"{directory}/{LOCK}"
        self._deadline = deadline
        self._fd = -1

    def __enter__(self) -> "Lock":
        while not self._acquire():
            posix.close(self._fd)
        try:
            posix.ftruncate(self._fd, 0)
            posix.pwrite(self._fd, f"{posix.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock is held all the same, but the file does not name its holder
        return self

    def _acquire(self) -> bool:
        """Wait for the lock; False if the locked file is not that of the directory any more."""
        try:
            flags = posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW
            self._fd = posix.open(self._path, flags, 0o600)
            # A file of an older version, which all could read. Who has it open may hold the lock again and again: it is replaced below.
            if shared := posix.fstat(self._fd).st_mode & 0o077:
                posix.fchmod(self._fd, 0o600)
        except OSError as error:
            raise Failure(NEVER, f"cannot open {self._path}: {error.strerror}") from None
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= self._deadline:
                    holder = posix.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
                    posix.close(self._fd)
                    owner = f"process {holder}" if holder.isdigit() else "another process"
                    raise Failure(LATER, f"{self._path} is held by {owner}; gave up after CMK_LOCK_TIMEOUT") from None
            except OSError as error:
                posix.close(self._fd)
                raise Failure(NEVER, f"cannot lock {self._path}: {error.strerror}") from None
            sleep(max(min(pause, self._deadline - monotonic()), 0))
            pause = min(pause * 2, _LAST_PAUSE)
        if posix.fstat(self._fd).st_nlink == 0:  # cmk uninstall has removed it
            return False
        if shared:
            posix.unlink(self._path)
        return not shared

    def __exit__(self, *_: object) -> None:
        posix.close(self._fd)
