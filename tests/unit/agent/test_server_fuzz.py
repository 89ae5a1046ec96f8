"""Random conversations with the agent: it serves on, and is left with the descriptors that it had."""

from __future__ import annotations

import array
import asyncio
import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.agent.harness import Node, on_node

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")

CONVERSATIONS = 1500
AT_ONCE = 20
KEYS = ["pool", "cores", "socket", "affinity", "timeout", "on-move", "zzz", ""]
VALUES = [
    "shared", "infra", "exclusive", "1", "-1", "0", "999999", "9" * 400, "notify", "notify:SIGHUP", "notify:HUP", "pinned",
    "\0", "\x1b[31m", "é", "\u0661", "50", "200", "1.5", "nan", "",
]  # fmt: skip


class Fuzz:
    """Random packets, all of them from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # the same packets again from the same seed

    def packet(self) -> bytes:
        if self._random.random() < 0.3:
            return self._random.randbytes(self._random.choice([0, 1, 5, 100, 4096, 9000]))
        what = self._random.choice(["isolate"] * 6 + ["describe", "node-report", "x"])
        fields = (f"{self._random.choice(KEYS)}={self._random.choice(VALUES)}" for _ in range(self._random.randrange(6)))
        return "\n".join([f"cmk/1 {what}", *fields]).encode()

    def packets(self) -> list[bytes]:
        return [self.packet() for _ in range(self._random.randrange(4))]

    def is_patient(self) -> bool:
        return self._random.random() < 0.7

    def files(self) -> int:
        """How many descriptors come with a packet."""
        return self._random.choice([0] * 9 + [100])


@contextmanager
def null_files(count: int) -> Iterator[list[tuple[int, int, array.array[int]]]]:
    """The ancillary data that sends so many descriptors."""
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    try:
        yield [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    finally:
        for file in files:
            os.close(file)


async def converse(path: Path, fuzz: Fuzz) -> None:
    """One client: it says something, waits for a reply or not, and leaves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client, suppress(OSError, TimeoutError):
        client.setblocking(False)
        client.connect(str(path))
        for packet in fuzz.packets():
            with null_files(fuzz.files()) as files:
                client.sendmsg([packet], files)
            await asyncio.sleep(0)
        if fuzz.is_patient():
            async with asyncio.timeout(0.05):
                await asyncio.get_running_loop().sock_recv(client, 65536)


async def settled(count: int) -> None:
    """Until this process has so many descriptors; the clients that say nothing are hung up on after two seconds."""
    async with asyncio.timeout(30):
        while len(os.listdir("/proc/self/fd")) > count:  # noqa: PTH208  # which counts its own
            await asyncio.sleep(0.05)


def test_random_conversations_harm_nobody(tmp_path: Path) -> None:
    seed = int(os.environ.get("CMK_FUZZ_SEED") or time.time_ns() % 10**9)
    print(f"CMK_FUZZ_SEED={seed}")
    fuzz = Fuzz(seed)

    async def scenario(node: Node) -> None:
        loop = asyncio.get_running_loop()
        errors: list[object] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))  # which would end the agent
        await converse(node.socket, fuzz)
        await settled(before := len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        for _ in range(CONVERSATIONS // AT_ONCE):
            await asyncio.gather(*(converse(node.socket, fuzz) for _ in range(AT_ONCE)))
        await settled(before)
        assert errors == []
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.setblocking(False)
            client.connect(str(node.socket))
            client.send(b"cmk/1 describe")
            assert (await asyncio.wait_for(loop.sock_recv(client, 65536), 20)).startswith(b"cmk/1 ok")

    on_node(tmp_path, scenario)
