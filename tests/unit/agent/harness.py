"""A serving agent without a cluster: real sockets, real processes, real affinities; only who is in which pod is made up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cmk.agent.files import StateFiles
from cmk.agent.limits import Limits
from cmk.agent.options import Options
from cmk.agent.pod_cache import PodCache
from cmk.agent.service import Service
from cmk.agent.wakeups import Wakeups
from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import PodContainer
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.pods import Pod, resource_of
from cmk.model.topology import Core, Topology

CPUS = sorted(os.sched_getaffinity(0))
POD = Pod("0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f", "ns", "web", {resource_of("exclusive"): 1})
PLACE = PodContainer(POD.uid, "ab" * 32)
TOPOLOGY = Topology(tuple(Core(number, 0, frozenset({cpu})) for number, cpu in enumerate(CPUS)))
# One exclusive core, everything else in infra and shared: fits every machine with two CPUs.
LAYOUT = Layout(
    {
        "exclusive": Pool("exclusive", True, (CpuList(frozenset({CPUS[-1]}), 0),)),
        "shared": Pool("shared", False, (CpuList(frozenset(CPUS[:-1]), 0),)),
        "infra": Pool("infra", False, (CpuList(frozenset(CPUS[:-1]), 0),)),
    }
)
EXCLUSIVE = frozenset({CPUS[-1]})
SHARED = frozenset(CPUS[:-1])

# Its last line tells our clients from those of another run on this machine.
CLIENT = (
    """
import json, os, signal, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(sys.argv[2].encode())
reply = s.recv(65536).decode()
print(json.dumps([reply, sorted(os.sched_getaffinity(0))]), flush=True)
for line in sys.stdin:
    if line.strip() == "orphan":
        child = os.fork()
        if not child:
            os.close(0); os.close(1)
            signal.pause()
        print(json.dumps(child), flush=True)
    else:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(sys.argv[1])
        s.send(line.strip().replace("|", "\\n").encode())
        print(json.dumps([s.recv(65536).decode(), sorted(os.sched_getaffinity(0))]), flush=True)
"""
    + f"# {uuid.uuid4()}"
)


def text_of(pool: str, **fields: object) -> str:
    """A request as the launcher words it."""
    return "\n".join(["cmk/1 isolate", f"pool={pool}", *(f"{name}={value}" for name, value in fields.items())])


def is_client(proc: Path, pid: int) -> bool:
    """Whether a process is a client or a child of one."""
    try:
        return CLIENT.encode() in (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


class Client:
    """A process that asks and then lives until told otherwise."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @classmethod
    async def start(cls, sock: Path, request: str) -> Client:
        """Ask without waiting for the answer."""
        pipe = asyncio.subprocess.PIPE
        line = [sys.executable, "-c", CLIENT, sock, request]
        return cls(await asyncio.create_subprocess_exec(*line, stdin=pipe, stdout=pipe, start_new_session=True))

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process.returncode is None:
            await self.kill()
        with suppress(ProcessLookupError):  # orphans
            os.killpg(self.pid, signal.SIGKILL)

    async def answer(self) -> tuple[str, frozenset[int]]:
        """First reply and the affinity right after it."""
        reply, cpus = await self._line()
        return reply, frozenset(cpus)

    async def again(self, request: str) -> tuple[str, frozenset[int]]:
        """The same process asks once more."""
        await self._tell(request.replace("\n", "|"))
        return await self.answer()

    async def orphan(self) -> int:
        """Fork a child that outlives the process; returns its pid."""
        await self._tell("orphan")
        return int(await self._line())

    async def kill(self) -> None:
        """End it the hard way."""
        self._process.kill()
        await self._process.wait()

    async def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def _line(self) -> Any:  # noqa: ANN401
        assert self._process.stdout is not None
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), 20))


def options_in(root: Path, *, require_request: bool = True, limits: Limits | None = None) -> Options:
    """Options of an agent that keeps everything below ``root``."""
    for name in ("opt", "run", "state", "old"):
        (root / name).mkdir(exist_ok=True)
    launcher = root / "launcher"
    launcher.write_bytes(b"launcher")
    directories = root / "opt", root / "run", root / "state"
    host_dirs = (root / "old",)
    return Options(
        "node1", "ns", "config", "hosts", *directories, launcher, host_dirs, require_request, limits=limits or Limits()
    )


class Node:
    """One service on directories of its own; ``pods`` are known from the start, ``listed`` what the API would tell when asked."""

    def __init__(
        self,
        root: Path,
        pods: list[Pod] | None = None,
        *,
        require_request: bool = True,
        cache: PodCache | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.options = options_in(root, require_request=require_request, limits=limits)
        self.files = StateFiles(self.options, Procfs())
        self.listed: list[dict[str, Any]] = []
        self.listings = 0
        self.pods = cache or PodCache(self._list, lambda: None)
        self.pods.remember(pods or [])
        self.wakeups = Wakeups()
        self.service = Service(self.options, self.files, LAYOUT, TOPOLOGY, self.pods, self.wakeups)

    def start(self) -> None:
        """Take over what the task file says and serve."""
        found = self.files.read_tasks()
        self.pods.remember({**{pod.uid: pod for pod in found.pods}, **self.pods.all}.values())
        self.service.start(found)

    @property
    def socket(self) -> Path:
        """Where clients ask."""
        return self.options.install_dir / "agent.sock"

    def tasks(self, pool: str) -> list[int]:
        """Pids of a pool's tasks."""
        return sorted(task.process.pid for task in self.service.ledger.tasks.values() if task.pool == pool)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change that makes the condition true."""
        async with asyncio.timeout(20):
            while not condition():
                await self.wakeups.publish.wait()

    async def waiting(self, count: int) -> None:
        """Until so many requests wait for a list to come free."""
        async with asyncio.timeout(20):
            while len(self.service._allocator._released._waiters) < count:  # type: ignore[attr-defined]
                await asyncio.sleep(0.01)

    async def ask(self, pool: str = "exclusive", **fields: object) -> Client:
        """Start a client."""
        return await Client.start(self.socket, text_of(pool, **fields))

    async def _list(self) -> list[dict[str, Any]]:
        self.listings += 1
        return self.listed


def on_node(root: Path, scenario: Callable[[Node], Awaitable[None]], pods: list[Pod] | None = None, **options: Any) -> None:  # noqa: ANN401
    """Run a scenario against a serving node."""

    async def run() -> None:
        node = Node(root, [POD] if pods is None else pods, **options)
        node.start()
        try:
            await scenario(node)
        finally:
            node.service.stop()

    asyncio.run(run())
