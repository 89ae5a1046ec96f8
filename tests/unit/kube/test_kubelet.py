from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from cmk.kube import kubelet
from cmk.kube.kubelet import KubeletError, hands_out_cpus

# AllocatableResourcesResponse as kubelet 1.35 sends it: devices (1), cpu_ids (2, packed), memory (3).
DEVICE = b"\x0a\x0f\x0a\x05a.b/c\x12\x06serial"
MEMORY = b"\x1a\x0a\x0a\x06memory\x10\x01"


class Kubelet:
    def __init__(self, answer: bytes | Status | None) -> None:
        self.answer = answer

    async def _reply(self, stream: Stream[bytes, bytes]) -> None:
        assert await stream.recv_message() == b""
        if self.answer is None:
            await asyncio.sleep(60)
        if isinstance(self.answer, Status):
            raise GRPCError(self.answer, "not here")
        await stream.send_message(self.answer)

    def __mapping__(self) -> dict[str, Handler]:
        return {"/v1.PodResourcesLister/GetAllocatableResources": Handler(self._reply, Cardinality.UNARY_UNARY, bytes, bytes)}


@asynccontextmanager
async def listening(socket: Path, answer: bytes | Status | None) -> AsyncIterator[Kubelet]:
    kubelet_ = Kubelet(answer)
    server = Server([kubelet_], codec=kubelet.Plain())
    await server.start(path=str(socket))
    try:
        yield kubelet_
    finally:
        server.close()
        await server.wait_closed()


def ask(tmp_path: Path, answer: bytes | Status | None) -> bool:
    async def run() -> bool:
        async with listening(tmp_path / "s", answer):
            return await hands_out_cpus(tmp_path / "s")

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "hands_out"),
    [
        (b"", False),
        (DEVICE + MEMORY, False),
        (DEVICE + b"\x12\x02\x00\x01" + MEMORY, True),
        (b"\x12\x01\x00", True),
        (b"\x10\x00", True),
        (b"\x12\x00", False),
        (b"\x21" + bytes(8) + b"\x2d" + bytes(4), False),
        (DEVICE * 20000, False),
    ],
    ids=["policy none", "none with devices", "static", "static CPU 0 alone", "not packed", "empty", "unknown fields", "long"],
)
def test_a_policy_shows_by_the_cpus_there_are_to_give(tmp_path: Path, answer: bytes, hands_out: bool) -> None:
    assert ask(tmp_path, answer) is hands_out


@pytest.mark.parametrize("answer", [b"\x12", b"\xff", Status.UNIMPLEMENTED])
def test_what_is_no_answer_is_told(tmp_path: Path, answer: bytes | Status) -> None:
    with pytest.raises(KubeletError):
        ask(tmp_path, answer)


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with pytest.raises(KubeletError, match="No such file"):
        asyncio.run(hands_out_cpus(tmp_path / "s"))


def test_who_does_not_answer_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelet, "SECONDS_TO_ANSWER", 0.1)

    with pytest.raises(KubeletError, match=r"Deadline|Timeout"):
        ask(tmp_path, None)
