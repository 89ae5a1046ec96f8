"""bench isolate: a real agent in a pod of its own, and the start of programs with it in another, compared with that without it."""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import socket
import sys
import time
from pathlib import Path

from pods import Pods
from timing import launch, row

from cmk.agent import main as whole_agent  # noqa: F401  # loads the modules of the real agent, for the memory figure
from cmk.agent.files import StateFiles
from cmk.agent.limits import Limits
from cmk.agent.options import Options
from cmk.agent.pod_cache import PodCache
from cmk.agent.service import Service
from cmk.agent.wakeups import Wakeups
from cmk.host.procfs import Procfs
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.topology import Core, Topology

CPUS = sorted(os.sched_getaffinity(0))
# One pod starts more programs here than it may on a node, and how long it would have to wait is not what is measured.
UNLIMITED = Limits(requests_per_second=1_000_000)
REQUEST = b"cmk/1 isolate\npool=exclusive\ntimeout=20000"


def serve(root: Path, cgroups: Path, limits: Limits) -> None:
    """The agent: one exclusive core, the rest infra; clients need no grant, because there is no cluster to give one."""
    rest = CpuList(frozenset(CPUS[:-1]), 0)
    layout = Layout(
        {
            "exclusive": Pool("exclusive", True, (CpuList(frozenset(CPUS[-1:]), 0),)),
            "infra": Pool("infra", False, (rest,)),
        }
    )
    topology = Topology(tuple(Core(number, 0, frozenset({cpu})) for number, cpu in enumerate(CPUS)))
    launcher = root / "launcher"
    launcher.write_bytes((root / "cmk").read_bytes())
    for name in ("opt", "run", "state"):
        (root / name).mkdir()
    paths = (root / "opt", root / "run", root / "state", launcher)
    options = Options("node", "ns", "c", "h", *paths, cgroups=cgroups, require_request=False, limits=limits)

    async def run() -> None:
        async def nobody() -> list[dict[str, object]]:
            return []

        files = StateFiles(options, Procfs(cgroups=cgroups))
        service = Service(options, files, layout, topology, PodCache(nobody, lambda: None), Wakeups())
        service.start(files.read_tasks())
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()
        service.stop()

    asyncio.run(run())


def child(address: str, until_killed: bool) -> tuple[int, int]:
    """A process that requests the exclusive core; returns its pid and a pipe with the times (ns) before and after its request."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.connect(address)
        asked = time.monotonic_ns()
        agent.send(REQUEST)
        reply = agent.recv(65536)
        got = time.monotonic_ns()
    os.write(write, f"{asked} {got} {int(reply.startswith(b'cmk/1 ok'))}".encode())
    while until_killed:
        signal.pause()
    os._exit(0)


def answer(pipe: int) -> tuple[int, int]:
    """Times before and after a child's request."""
    asked, got, ok = (int(word) for word in os.read(pipe, 100).split())
    os.close(pipe)
    if not ok:
        raise SystemExit("bench: the agent refused")
    return asked, got


def agent_times(address: str, rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds of an allocation, and from the exit of the holder to the answer to the next process."""
    allocation, freed = [], []
    for _ in range(rounds):
        holder, pipe = child(address, until_killed=True)
        asked, got = answer(pipe)
        allocation.append((got - asked) / 1000)
        waiter, pipe = child(address, until_killed=False)
        time.sleep(0.003)  # by then the request is in the queue
        pidfd = os.pidfd_open(holder)
        os.kill(holder, signal.SIGKILL)
        # The exit wakes both the agent and this process. A figure below zero is an answer that came before this process read the clock.
        select.select([pidfd], [], [])
        dead = time.monotonic_ns()
        os.close(pidfd)
        asked, got = answer(pipe)
        if asked < dead:
            freed.append((got - dead) / 1000)
        for pid in (holder, waiter):
            os.waitpid(pid, 0)
        time.sleep(0.002)
    return allocation, freed


def measure(root: Path, rounds: int) -> None:
    """In a pod: print the tables."""
    address, cpu = str(root / "opt/agent.sock"), str(CPUS[-1])
    environment = {"PATH": "/usr/bin:/bin", "CMK_SOCKET": address}
    commands = {
        "bare /bin/true": ["/bin/true"],
        "taskset -c": ["taskset", "-c", cpu, "/bin/true"],
        "cmk isolate --pool=infra": [str(root / "cmk"), "isolate", "--pool=infra", "/bin/true"],
        "cmk isolate --pool=exclusive": [str(root / "cmk"), "isolate", "--pool=exclusive", "/bin/true"],
        "python -m cmk isolate": [sys.executable, "-m", "cmk", "isolate", "--pool=infra", "/bin/true"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name in random.sample(list(commands), len(commands)):
            if name == "python -m cmk isolate" and len(times[name]) >= max(rounds // 10, 20):
                continue
            times[name].append(launch(commands[name], environment))
    bases = {name: times[name] for name in ("bare /bin/true", "taskset -c")}
    print(f"{'microseconds, ' + str(rounds) + ' rounds':32}{'min':>10}{'p50':>10}{'p99':>10}{'x bare':>12}{'x taskset':>12}")
    for name, taken in times.items():
        print(row(name, taken, bases))
    allocation, freed = agent_times(address, min(rounds, 500))
    print(row("agent: allocation", allocation, {}))
    print(row("agent: exit to next owner", freed, {}))


def main(root: Path, rounds: int) -> None:
    """The agent in one pod, and what it serves in another."""
    pods = Pods()
    agent = pods.start(0, [sys.executable, __file__, "--serve", str(root), str(pods.root)])
    try:
        while not (root / "opt/agent.sock").exists():
            if agent.poll() is not None:
                raise SystemExit("bench: the agent ended")
            time.sleep(0.05)
        if code := pods.start(1, [sys.executable, __file__, "--measure", str(root), str(rounds)]).wait():
            raise SystemExit(code)
        status = Path(f"/proc/{agent.pid}/status").read_text()
        print(f"agent: resident {int(status.split('VmRSS:')[1].split()[0]) / 1024:.1f} MiB")
    finally:
        agent.terminate()
        agent.wait()
        pods.remove()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--serve", root, cgroups]:
            serve(Path(root), Path(cgroups), UNLIMITED)
        case ["--measure", root, rounds]:
            measure(Path(root), int(rounds))
        case [root, rounds]:
            main(Path(root), int(rounds))
