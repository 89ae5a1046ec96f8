"""A whole agent on an API server in memory, with its files below a directory."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cmk.agent.main import Agent
from cmk.model.config import PoolConfig, Section, Selection
from cmk.model.pods import resource_of
from tests.fabricate import fabricate
from tests.unit.agent.cluster import Cluster
from tests.unit.agent.harness import CLIENT, CPUS, POD, options_in, text_of

RESOURCE = resource_of("exclusive")
ONE = Section({"exclusive": PoolConfig(cpus=str(CPUS[-1]), exclusive=True), "infra": PoolConfig("rest")}, "one")
TOO_MANY = Section({"exclusive": PoolConfig(99, exclusive=True), "infra": PoolConfig("rest")}, "many")
BY_LABEL = Selection({"cmk-node": "enabled"})
OLD_WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/cmk-webhook-config"
BOUND = {
    "metadata": {"uid": POD.uid, "name": POD.name, "namespace": POD.namespace},
    "spec": {"containers": [{"name": "c", "resources": {"requests": {RESOURCE: "1"}}}]},
}


class World:
    """A node and its cluster, on which agents run one after the other."""

    def __init__(self, root: Path) -> None:
        sys_root, _ = fabricate(root / "machine", {str(cpu): 0 for cpu in CPUS})
        self.options = msgspec.structs.replace(options_in(root), health_port=0, sys_root=sys_root)
        self.cluster = Cluster(self.options, **{"cmk-node": "enabled"})
        self.root = root

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that the agent is about to do."""
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    async def serving(self) -> None:
        """Until workloads are served and the cluster knows."""
        await self.until(lambda: self.cluster.condition("Ready") == ("True", "Serving") and self.capacity == "1")

    async def refused(self, reason: str) -> None:
        """Until the report says why nobody is served."""
        await self.until(lambda: self.cluster.condition("Ready") == ("False", reason))

    async def ready(self, text: str) -> None:
        """Until the probe says that the agent is ready, in these words."""
        await self.until(lambda: self.agent._readiness() == (True, text))

    async def not_ready(self, text: str) -> None:
        """Until the probe says that the agent is not ready, in words that begin so."""
        await self.until(lambda: not (now := self.agent._readiness()).is_ready and now.text.startswith(text))

    @property
    def capacity(self) -> str:
        return str((self.cluster.node["status"].get("capacity") or {}).get(RESOURCE, ""))

    @property
    def socket(self) -> Path:
        return self.options.install_dir / "agent.sock"

    def run(self, scenario: Callable[[World], Awaitable[None]]) -> None:
        """Run an agent until the scenario has ended, then tell it to stop. Raises what the agent raises."""

        async def run() -> None:
            self.agent = Agent(self.options, self.cluster)
            agent = asyncio.create_task(self.agent.run())
            story = asyncio.ensure_future(scenario(self))
            await asyncio.wait({agent, story}, return_when=asyncio.FIRST_COMPLETED)
            if agent.done():
                story.cancel()
            else:
                os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(20):
                await agent
            await story

        asyncio.run(run())


def message(world: World) -> str:
    return next(item["message"] for item in world.cluster.report["status"]["conditions"] if item["type"] == "Ready")


class LongLived:
    """A client that outlives agents."""

    def __init__(self, world: World) -> None:
        self._socket = world.socket

    def __enter__(self) -> LongLived:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ask(self, pool: str) -> None:
        """Ask for a core; returns with the answer."""
        line = [sys.executable, "-c", CLIENT, self._socket, text_of(pool)]
        self._process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert b"cmk/1 ok" in self._process.stdout.readline()

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def another_agent(world: World) -> Iterator[None]:
    """An agent that holds the lock."""
    with world.options.lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
