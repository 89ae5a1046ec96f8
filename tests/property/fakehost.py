"""A made-up host: processes in a made-up procfs, their masks, and a kill at any of the calls that change something."""

from __future__ import annotations

import os
import posix
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from cmk.isolate import local

_OPEN, _CLOSE = posix.open, posix.close
CALLS = ("rename", "replace", "unlink", "fsync", "write", "ftruncate", "mkdir", "sched_setaffinity")


class Killed(BaseException):
    """kill -9, as seen from inside."""


class FakeProcess:
    """A process; ``mask`` is that of its first thread, and of a second one if ``first_ended``."""

    def __init__(self, pid: int, start: int, parent: int, mask: frozenset[int]) -> None:
        self.pid, self.start, self.parent, self.mask = pid, start, parent, mask
        self.first_ended = False


class FakeHost:
    """Processes below ``root/proc``. Pids go up by one; after ``wait`` they begin again, as on a host where they have gone round."""

    def __init__(self, root: Path, cpus: frozenset[int]) -> None:
        self.proc, self.cpus = root / "proc", cpus
        self.processes: dict[int, FakeProcess] = {}
        self.ticks, self.next_pid = 100, 100
        self.current = 0
        self._open: set[int] = set()
        self.left = -1  # calls until the current process is killed; negative: never
        (self.proc / "sys/kernel/random").mkdir(parents=True)
        (self.proc / "sys/kernel/random/boot_id").write_text("boot\n")
        (self.proc / "sys/kernel/pid_max").write_text("32768\n")
        self.processes[1] = FakeProcess(1, 0, 0, cpus)
        self._show(self.processes[1])

    def start(self, parent: int, mask: frozenset[int] | None = None) -> FakeProcess:
        """A new process: by default with its parent's mask."""
        while self.next_pid in self.processes or self.next_pid - 1 in self.processes:  # one for the second thread
            self.next_pid += 1
        process = FakeProcess(self.next_pid, self.ticks, parent, mask or self.processes[parent].mask)
        self.next_pid += 2
        self.processes[process.pid] = process
        self._show(process)
        self._show_last()
        return process

    def end(self, pid: int) -> None:
        """End a process: its children come to process 1."""
        del self.processes[pid]
        shutil.rmtree(self.proc / str(pid))
        shutil.rmtree(self.proc / str(pid + 1), ignore_errors=True)
        for process in self.processes.values():
            if process.parent == pid:
                process.parent = 1
                self._show(process)

    def end_first_thread(self, pid: int) -> None:
        """End the first thread of a process that has a second one by now."""
        process = self.processes[pid]
        process.first_ended = True
        self._show(process)

    def wait(self) -> None:
        """Time passes, and pids begin anew."""
        self.ticks += 1000
        self.next_pid = 100

    def run(self, pid: int, function: Callable[[], object], left: int = -1) -> bool:
        """Call a function as a process; False if it was killed meanwhile."""
        self.current, self.left = pid, left
        (self.proc / "self").unlink(missing_ok=True)
        (self.proc / "self").symlink_to(str(pid))
        self._show_last()
        try:
            with self._kernel():
                function()
        except Killed:
            for fd in self._open:  # as the kernel does: the lock is free again
                os.close(fd)
            return False
        finally:
            self.left = -1
            self._open.clear()
        return True

    def _show_last(self) -> None:
        (self.proc / "loadavg").write_text(f"0.00 0.00 0.00 1/9 {self.next_pid - 1}\n")

    def _show(self, process: FakeProcess) -> None:
        tids = [process.pid, process.pid + 1] if process.first_ended else [process.pid]
        for tid in tids:
            state = "Z" if process.first_ended and tid == process.pid else "S"
            (self.proc / f"{process.pid}/task/{tid}").mkdir(parents=True, exist_ok=True)
            (self.proc / str(tid)).mkdir(exist_ok=True)
            fields = f"{process.pid} (a) b) {state} {process.parent} {'0 ' * 15}{len(tids)} 0 {process.start} 0\n"
            (self.proc / f"{tid}/stat").write_text(fields)
        (self.proc / f"{process.pid}/ns").mkdir(exist_ok=True)
        if not (self.proc / f"{process.pid}/ns/pid").is_symlink():
            (self.proc / f"{process.pid}/ns/pid").symlink_to("pid:[7]")

    def _process(self, tid: int) -> FakeProcess:
        tid = tid or self.current
        process = self.processes.get(tid) or self.processes.get(tid - 1)
        if process is None or (process.pid != tid and not process.first_ended):
            raise ProcessLookupError(3, os.strerror(3))
        return process

    def _set(self, tid: int, cpus: frozenset[int]) -> None:
        self._process(tid).mask = frozenset(cpus)

    @contextmanager
    def _kernel(self) -> Iterator[None]:
        with (
            mock.patch.object(posix, "getpid", side_effect=lambda: self.current),
            mock.patch.object(local, "clock_gettime", side_effect=lambda _: self.ticks / 100),
        ):
            patches = [
                mock.patch.object(module, name, change)
                for module in (os, posix)
                for name, change in (
                    *((name, self._counted(getattr(posix, name))) for name in CALLS[:-1]),
                    ("open", self._opened),
                    ("close", self._closed),
                    ("sched_setaffinity", self._counted(self._set)),
                    ("sched_getaffinity", lambda tid: set(self._process(tid).mask)),
                )
            ]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()

    def _opened(self, *args: Any, **more: Any) -> int:  # noqa: ANN401
        fd = _OPEN(*args, **more)
        if str(args[0]).endswith("/lock"):
            self._open.add(fd)
        return fd

    def _closed(self, fd: int) -> None:
        self._open.discard(fd)
        _CLOSE(fd)

    def _counted(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **more: object) -> object:
            if self.left == 0:
                raise Killed
            self.left -= 1
            return call(*args, **more)

        return counted
