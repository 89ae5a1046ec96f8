"""Processes in procfs: start time, parent, name, threads, pod and container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cmk.model.cgroup_path import PodContainer, parse_cgroup
from cmk.model.tasks import Process


class Procfs:
    """procfs mounted at a root. Methods raise ProcessLookupError when the process has ended."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self.root = root
        self._prefix = str(root)

    def start_time(self, pid: int) -> int:
        """Start in clock ticks since boot: field 22 of ``stat``, counted from the end of the command name, which may contain anything."""
        stat = self._read(f"{pid}/stat")
        return int(stat[stat.rindex(")") + 2 :].split()[19])

    def parent(self, pid: int) -> int:
        """Pid of the parent."""
        stat = self._read(f"{pid}/stat")
        return int(stat[stat.rindex(")") + 2 :].split()[1])

    def name(self, pid: int) -> str:
        """The command name the kernel shows."""
        return self._read(f"{pid}/comm").strip()

    def process(self, pid: int) -> Process:
        """The process that has this pid now."""
        return Process(pid, self.start_time(pid))

    def is_alive(self, process: Process) -> bool:
        """Whether this very process runs, and not another with its pid; a zombie does not run."""
        try:
            stat = self._read(f"{process.pid}/stat")
        except ProcessLookupError:
            return False
        fields = stat[stat.rindex(")") + 2 :].split()
        return int(fields[19]) == process.start and fields[0] not in "ZX"

    def pod_container(self, pid: int) -> PodContainer:
        """Pod and container by the leftmost pod directory of the cgroup path: groups that a workload creates below it change nothing."""
        return parse_cgroup(self._read(f"{pid}/cgroup"))

    def is_namespace_init(self, pid: int) -> bool:
        """Whether the process is pid 1 of a pid namespace below ours: when it ends, the kernel kills all others of that namespace."""
        for line in self._read(f"{pid}/status").splitlines():
            if line.startswith("NSpid:"):
                pids = line.split()[1:]
                return len(pids) > 1 and pids[-1] == "1"
        return False

    def pids(self) -> Iterator[int]:
        """Every process id, in no order."""
        return (int(name) for name in os.listdir(self.root) if name.isdigit())  # noqa: PTH208  # pathlib doubles the cost

    def threads(self, pid: int) -> list[int]:
        """Thread ids of a process."""
        try:
            return [int(name) for name in os.listdir(f"{self._prefix}/{pid}/task")]  # noqa: PTH208
        except FileNotFoundError as error:
            raise ProcessLookupError(f"process {pid} is gone") from error

    def boot_id(self) -> str:
        """The id of this boot: state of processes from another boot is void."""
        return self._read("sys/kernel/random/boot_id").strip()

    def _read(self, name: str) -> str:
        # Plain system calls: a Path and a text file would be half of what an allocation costs.
        try:
            fd = os.open(f"{self._prefix}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = b""
                while part := os.read(fd, 65536):
                    text += part
            finally:
                os.close(fd)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessLookupError(f"{self._prefix}/{name} is gone") from error
        return text.decode(errors="replace")
