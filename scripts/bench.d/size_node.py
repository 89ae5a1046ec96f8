"""A node of bench size: pods that are cgroups, processes that sleep in them, and the serving process. All of it is gone at the end."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from size_serve import NodeFile

from cmk.host.procfs import Procfs
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Task
from cmk.model.topology import Core, Topology

HERE = Path(__file__).parent
CPUSETS = Path("/sys/fs/cgroup/cpuset")
CPUS = sorted(os.sched_getaffinity(0))
INFRA, OWNER = CPUS[0], CPUS[-1]
CLIENT_CONTAINER = "c" * 64
# Containers of the pod that has all tasks: a search for what a task has left goes by container.
CONTAINERS = 10
SECONDS_TO_END = 60.0
PROCFS = Procfs()


class TooLongError(Exception):
    """There was no reply within so many ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no reply in {seconds:.0f} s")
        self.seconds = seconds


class Shape(msgspec.Struct, frozen=True):
    """The numbers of a node. ``tasks`` are those of the shared pool infra; ``processes`` are others, in the pods too."""

    cpus: int
    pods: int
    tasks: int
    processes: int

    def pools(self, infra: int, owner: int) -> Layout:
        """Pools in which two CPUs are real: that of infra, and one exclusive core, alone on socket 1. All others do not exist."""
        others = [CPUS[-1] + number for number in range(1, self.cpus - 1)]
        half = len(others) // 2
        cores = [CpuList(frozenset({owner}), 1), *(CpuList(frozenset({cpu}), 0) for cpu in others[:half])]
        pools = {
            "exclusive": Pool("exclusive", True, tuple(cores)),
            "infra": Pool("infra", False, (CpuList(frozenset({infra}), 0),)),
        }
        if others:
            pools["shared"] = Pool("shared", False, (CpuList(frozenset(others[half:]), 0),))
        return Layout(pools)

    @property
    def topology(self) -> Topology:
        """One thread per core."""
        cpus = [INFRA, OWNER, *(CPUS[-1] + number for number in range(1, self.cpus - 1))]
        return Topology(tuple(Core(number, int(cpu == OWNER), frozenset({cpu})) for number, cpu in enumerate(cpus)))


class Child:
    """A process that replies to each line with one line, and ends with its input."""

    def __init__(self, command: list[str], log: Path) -> None:
        # In a session of its own: what interrupts the bench reaches it as the end of its input, in order.
        with log.open("ab") as errors:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, bufsize=0, start_new_session=True)
        self._log = log

    def ask(self, line: str, seconds: float = 600) -> str:
        """The reply to a line; raises TooLongError after so many seconds."""
        end, reply = time.monotonic() + seconds, b""
        os.write(self.process.stdin.fileno(), f"{line}\n".encode())
        while not reply.endswith(b"\n"):
            readable, _, _ = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))
            if not readable:
                raise TooLongError(seconds)
            part = os.read(self.process.stdout.fileno(), 1 << 20)
            if not part:
                raise SystemExit(f"bench: {self.process.args} ended: {self._log.read_text()[-1000:]}")
            reply += part
        return reply.decode()

    def end(self) -> None:
        """Let it end."""
        self.process.stdin.close()
        self.process.wait()

    def kill(self) -> None:
        """End it, and all processes of its session that have not left its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cgroups:
    """Pods that are cpusets with the paths that kubelet gives them. ``host`` is a directory with no other cpusets in it than these."""

    def __init__(self, root: Path) -> None:
        self._top = CPUSETS / f"cmk-bench-{os.getpid()}"
        self.host = root / "cgroups"

    def make(self) -> None:
        """Make the group above all pods."""
        if not (CPUSETS / "cgroup.clone_children").exists():
            raise SystemExit("bench: needs the cpusets of cgroup v1")
        self._top.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):  # a group without takes no process
            (self._top / name).write_text((CPUSETS / name).read_text())
        (self._top / "cgroup.clone_children").write_text("1")  # those below have the same
        self.host.mkdir()
        (self.host / "cpuset").symlink_to(self._top)

    def container(self, pod: int, container: str) -> Path:
        """The file of a container's processes."""
        path = self._top / f"kubepods/pod{uid(pod)}/{container}"
        path.mkdir(parents=True, exist_ok=True)
        return path / "cgroup.procs"

    def remove(self) -> None:
        """Remove the cgroups, whose processes have ended or are about to."""
        end = time.monotonic() + SECONDS_TO_END
        for path, _, _ in os.walk(self._top, topdown=False):
            while True:
                try:
                    Path(path).rmdir()
                    break
                except OSError as error:
                    if error.errno != errno.EBUSY or time.monotonic() > end:
                        raise
                    time.sleep(0.01)


class Node:
    """A node that is served. Everything that it starts ends with ``stack``."""

    def __init__(self, shape: Shape, root: Path, stack: ExitStack, *, in_one_pod: bool) -> None:
        self.cgroups = Cgroups(root)
        stack.callback(self.cgroups.remove)
        self.cgroups.make()
        self._program, self._stack, self._log = root.parent / "size", stack, root / "log"
        self._tasks: list[Task] = []
        sleepers = self._sleepers()
        if in_one_pod:
            self.dying = self._sleepers()
            for number in range(CONTAINERS):
                self._add_tasks(self.dying, 1, f"{number:064x}", _part(shape.tasks, CONTAINERS, number))
        for pod in range(shape.pods):
            container = f"{pod:064x}"
            if not in_one_pod:
                self._add_tasks(sleepers, pod, container, _part(shape.tasks, shape.pods, pod))
            sleepers.ask(f"{_part(shape.processes, shape.pods, pod)} -1 {self.cgroups.container(pod, container)}")
        # The pod with the client alone has a grant: no more than the real core may be requested where the node has but one.
        pods = [Pod(uid(pod), "bench", f"pod{pod}", {} if pod else {resource_of("exclusive"): 1}) for pod in range(shape.pods)]
        pools, coming = shape.pools(INFRA, OWNER), shape.pools(OWNER, INFRA)
        file = NodeFile(pools, coming, shape.topology, self._tasks, pods, str(self.cgroups.host))
        (root / "node.json").write_bytes(msgspec.json.encode(file))
        self.address = str(root / "opt/agent.sock")
        self.agent = self._child([sys.executable, str(HERE / "size_serve.py"), str(root)])
        self.stall()

    def stall(self, seconds: float = 600) -> tuple[float, int]:
        """Milliseconds of the longest stall since the last call, and the number of tasks now; raises TooLongError."""
        reply = json.loads(self.agent.ask("stall", seconds))
        return reply["stall"], reply["tasks"]

    def client(self) -> Child:
        """An owner's pod: see size_client.py."""
        return self._child(self._in_pod([sys.executable, str(HERE / "size_client.py"), self.address]))

    def spawner(self, request: str) -> subprocess.Popen[str]:
        """A process in the owner's pod that starts threads all the time, and sends a request."""
        return subprocess.Popen(
            self._in_pod([str(self._program), "spawn", self.address, request]), stdout=subprocess.PIPE, text=True
        )

    def _in_pod(self, command: list[str]) -> list[str]:
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.cgroups.container(0, CLIENT_CONTAINER)), *command]

    def _child(self, command: list[str]) -> Child:
        child = Child(command, self._log)
        self._stack.callback(child.kill)
        return child

    def _sleepers(self) -> Child:
        child = Child([str(self._program), "sleep"], self._log)
        self._stack.callback(child.end)
        return child

    def _add_tasks(self, sleepers: Child, pod: int, container: str, count: int) -> None:
        for pid in map(int, sleepers.ask(f"{count} {INFRA} {self.cgroups.container(pod, container)}").split()):
            self._tasks.append(Task(PROCFS.process(pid), "infra", (str(INFRA),), uid(pod), container))


def uid(pod: int) -> str:
    """The uid of a pod by its number."""
    return f"{pod:08x}-0000-4000-8000-000000000000"


@contextmanager
def node(shape: Shape, root: Path, *, in_one_pod: bool = False) -> Iterator[Node]:
    """Make a node, with its tasks in all pods or all in pod 1, and serve it."""
    with ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=root)))
        yield Node(shape, own, stack, in_one_pod=in_one_pod)


def _part(count: int, parts: int, number: int) -> int:
    return (count * (number + 1)) // parts - (count * number) // parts
