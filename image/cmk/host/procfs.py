"""Processes in procfs, and those of a container by its cgroup: start time, parent, name, threads, pod and container."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cmk.host.containers import Containers
from cmk.model.cgroup_path import PodContainer, parse_cgroup
from cmk.model.tasks import Process

_EXITING = 0x4  # PF_EXITING
_LINKS_OF_ONE = 3  # of a directory that has one other: its own name, "." and the other's ".."
_READ = 65536


class Procfs:
    """procfs mounted at a root. Methods raise ProcessLookupError when the process has ended.

    ``cgroups`` is the mount of the host's cgroups, without which nothing tells the processes of a container but each one's own file.
    """

    def __init__(self, root: Path = Path("/proc"), cgroups: Path | None = None) -> None:
        self.root = root
        self._containers = Containers(cgroups) if cgroups else None
        self._prefix = str(root)

    def start_time(self, pid: int) -> int:
        """Start in clock ticks since boot: field 22 of ``stat``, counted from the end of the command name, which may contain anything."""
        stat = self._read(f"{pid}/stat")
        return int(stat[stat.rindex(")") + 2 :].split()[19])

    def parent(self, pid: int) -> int:
        """Pid of the parent."""
        stat = self._read(f"{pid}/stat")
        return int(stat[stat.rindex(")") + 2 :].split()[1])

    def child(self, pid: int) -> tuple[int, Process]:
        """Pid of the parent, and the process that is its child: of one moment, so that another with the same pid is not taken for it."""
        stat = self._read(f"{pid}/stat")
        fields = stat[stat.rindex(")") + 2 :].split()
        return int(fields[1]), Process(pid, int(fields[19]))

    def ancestors(self, pid: int, most: int) -> list[Process]:
        """The parent, its parent, and so on, up to init; ``most`` of them."""
        while True:
            found: list[Process] = []
            above = self.parent(pid)
            try:
                while above and len(found) < most:
                    found.append(self.process(above))
                    above = self.parent(above)
            except ProcessLookupError:
                continue  # one has ended, and those below it have another parent
            return found

    def name(self, pid: int) -> str:
        """The command name the kernel shows."""
        return self._read(f"{pid}/comm").strip()

    def process(self, pid: int) -> Process:
        """The process that has this pid now."""
        return Process(pid, self.start_time(pid))

    def is_alive(self, process: Process) -> bool:
        """Whether this very process runs, and not another with its pid.

        A zombie does not run, unless only its first thread has ended: the kernel counts that one until all others have ended too.
        """
        try:
            stat = self._read(f"{process.pid}/stat")
        except ProcessLookupError:
            return False
        fields = stat[stat.rindex(")") + 2 :].split()
        return int(fields[19]) == process.start and (fields[0] not in "ZX" or (fields[0] == "Z" and int(fields[17]) > 1))

    def first_thread_runs(self, pid: int) -> bool:
        """Whether the first thread of a process runs and is not about to end; others may run on when it has ended.

        One that is about to end has started its last child, and cgroup v1 says of it that it is in no pod.
        """
        stat = self._read(f"{pid}/stat")
        fields = stat[stat.rindex(")") + 2 :].split()
        return fields[0] not in "ZX" and not int(fields[6]) & _EXITING

    def pod_container(self, pid: int) -> PodContainer:
        """Pod and container by the leftmost pod directory of the cgroup path: groups that a workload creates below it change nothing."""
        found = parse_cgroup(self._read(f"{pid}/cgroup"))
        if found.pod or self.first_thread_runs(pid):
            return found
        # Of a thread that ends or has ended, cgroup v1 says that it is in the root.
        for tid in self.threads(pid):
            try:
                found = parse_cgroup(self._read(f"{pid}/task/{tid}/cgroup"))
            except ProcessLookupError:
                continue
            if found.pod:
                break
        return found

    def credentials(self, pid: int) -> tuple[int, int]:
        """Effective uid and gid."""
        lines = [line.split() for line in self._status(pid)]
        ids = {words[0]: int(words[2]) for words in lines if words[:1] in (["Uid:"], ["Gid:"])}
        return ids["Uid:"], ids["Gid:"]

    def has_thread(self, pid: int, tid: int) -> bool:
        """Whether the process has this thread."""
        return os.path.exists(f"{self._prefix}/{pid}/task/{tid}")  # noqa: PTH110

    def is_namespace_init(self, pid: int) -> bool:
        """Whether the process is pid 1 of a pid namespace below ours: when it ends, the kernel kills all others of that namespace."""
        for line in self._status(pid):
            if line.startswith("NSpid:"):
                pids = line.split()[1:]
                return len(pids) > 1 and pids[-1] == "1"
        return False

    def pids(self) -> Iterator[int]:
        """Every process id, in no order."""
        return (int(name) for name in os.listdir(self.root) if name.isdigit())  # noqa: PTH208  # pathlib doubles the cost

    def pids_in(self, container: PodContainer) -> Iterable[int]:
        """Processes of a container, perhaps among others."""
        found = self._containers.pids(container) if self._containers else None
        return self.pids() if found is None else found

    def threads(self, pid: int) -> list[int]:
        """Thread ids of a process."""
        try:
            # The kernel counts threads as it does directories: a twentieth of the cost for most processes, which have one.
            if os.stat(f"{self._prefix}/{pid}/task").st_nlink == _LINKS_OF_ONE:  # noqa: PTH116  # Path doubles the cost
                return [pid]
            names = os.listdir(f"{self._prefix}/{pid}/task")  # noqa: PTH208
        except FileNotFoundError as error:
            raise ProcessLookupError(f"process {pid} is gone") from error
        if not names:  # it has gone between the open and the read of the directory
            raise ProcessLookupError(f"process {pid} is gone")
        return [int(name) for name in names]

    def boot_id(self) -> str:
        """The id of this boot: state of processes from another boot is void."""
        return self._read("sys/kernel/random/boot_id").strip()

    def _status(self, pid: int) -> list[str]:
        # Not splitlines: in a process's name, which anybody can choose, the kernel escapes but one of the characters that end lines there.
        return self._read(f"{pid}/status").split("\n")

    def _read(self, name: str) -> str:
        # Plain system calls: a Path and a text file would be half of what an allocation costs.
        try:
            fd = os.open(f"{self._prefix}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = part = os.read(fd, _READ)
                while len(part) == _READ:  # a file of procfs that is one record is read whole as far as there is room
                    part = os.read(fd, _READ)
                    text += part
            finally:
                os.close(fd)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise ProcessLookupError(f"{self._prefix}/{name} is gone") from error
        return text.decode(errors="replace")
