"""What many agents ask of an API server: the real watches of as many agents, without nodes under them. Part of bench fleet."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3
from bytes_read import Counter, cpu_seconds
from kubernetes.client.configuration import Configuration

from cmk.agent.options import Options
from cmk.agent.watches import Watches
from cmk.kube import client

MERGE = "application/merge-patch+json"
# A process of Python on a shared machine of two CPUs can be no more of them and still be quick beside the API server.
AGENTS = 100
NAMESPACE, CONFIG, HOSTS = "cmk", "cmk-config", "cmk-hosts"
SECONDS_IDLE, SECONDS_AWAY, LONGEST = 120.0, 20.0, 300.0


class Agents:
    """The watches of agents, all in one event loop."""

    def __init__(self, configuration: Configuration, names: list[str]) -> None:
        self._all = [Watches(client.Api(configuration), _options(name), lambda: None) for name in names]

    def start(self) -> None:
        """All at once."""
        for watches in self._all:
            watches.start()

    async def know_everything(self) -> None:
        """Wait until no agent has a doubt."""
        await self._all_are(lambda watches: not watches.trouble)

    async def have(self, text: str) -> None:
        """Wait until every agent has this text as its configuration."""
        await self._all_are(lambda watches: watches._cluster_text == text)

    async def _all_are(self, done: Callable[[Watches], bool]) -> None:
        end = time.monotonic() + LONGEST
        while not all(map(done, self._all)):
            if time.monotonic() > end:
                raise SystemExit(
                    f"bench: {sum(map(done, self._all))} of {len(self._all)} agents have come so far in {LONGEST:.0f} s"
                )
            await asyncio.sleep(0.05)


class Apiserver:
    """The process, which can be killed and started again."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")

    def kill(self) -> None:
        """End it at once, and its connections with it."""
        os.kill(self.pid, signal.SIGKILL)

    def restart(self, log: Path) -> subprocess.Popen[bytes]:
        """Start it anew, with the command line that it had."""
        with log.open("ab") as output:
            process = subprocess.Popen(self._command, stdout=output, stderr=output)
        self.pid = process.pid
        return process


class Meter:
    """Requests, bytes of answers, CPU time of the API server and time of a phase. The CPU time of a server that begins begins with it."""

    def __init__(self, server: Apiserver) -> None:
        self._server = server
        self._bytes = Counter()
        self._requests = 0
        self.rows: dict[str, dict[str, float]] = {}
        request = client.Api._request

        def counted(api: client.Api, *args: object, **options: object) -> urllib3.HTTPResponse:
            self._requests += 1  # under the interpreter's lock, as good as exact
            return request(api, *args, **options)

        client.Api._request = counted

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done meanwhile, and print a row."""
        self._requests = self._bytes.bytes = 0
        cpu, begin = cpu_seconds(self._server.pid), time.monotonic()
        yield
        row = (self._requests, self._bytes.bytes / 1e6, cpu_seconds(self._server.pid) - cpu, time.monotonic() - begin)
        print(f"{name:32}{row[0]:10}{row[1]:10.2f}{row[2]:10.2f}{row[3]:8.1f}", flush=True)
        self.rows[name] = dict(zip(("requests", "MB", "apiserver_cpu_s", "s"), (round(value, 2) for value in row), strict=True))


async def measure(configuration: Configuration, names: list[str], run: Path) -> dict[str, dict[str, float]]:
    """Print a row for each phase; all rows by their names."""
    agents = Agents(configuration, random.sample(names, AGENTS))
    server = Apiserver(int((run / "apiserver.pid").read_text()))
    meter = Meter(server)
    print(f"{f'{AGENTS} agents':32}{'requests':>10}{'MB read':>10}{'s of CPU':>10}{'s':>8}")
    with meter.phase(f"without agents, {SECONDS_IDLE:.0f} s"):
        await asyncio.sleep(SECONDS_IDLE)
    with meter.phase("start, all at once"):
        agents.start()
        await agents.know_everything()
    with meter.phase(f"idle, {SECONDS_IDLE:.0f} s"):
        await asyncio.sleep(SECONDS_IDLE)
    api = client.Api(configuration)
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{CONFIG}"
    with meter.phase("a configuration comes"):
        await agents.have(await asyncio.to_thread(_change, api, path))
    server.kill()
    await asyncio.sleep(SECONDS_AWAY)
    process = server.restart(run / "apiserver-again.log")
    try:
        with meter.phase(f"the server returns after {SECONDS_AWAY:.0f} s"):
            await agents.know_everything()
    finally:
        process.kill()
        process.wait()
    return meter.rows


def _change(api: client.Api, path: str) -> str:
    """Another configuration for every node, of the same length."""
    stored = api.get(path)["data"]
    content = json.loads(stored["config.json"])
    content["default"]["taint"] = not content["default"]["taint"]
    text = json.dumps(content)
    api.patch(path, {"data": {"config.json": text}}, MERGE)
    return text


def _options(name: str) -> Options:
    nowhere = Path("/nonexistent")
    return Options(name, NAMESPACE, CONFIG, HOSTS, nowhere, nowhere, nowhere, nowhere)
