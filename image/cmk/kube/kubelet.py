"""The client of kubelet's pod-resources socket (k8s.io/kubelet/pkg/apis/podresources/v1): is kubelet's CPU manager at work?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError

from cmk.model.errors import CmkError

SECONDS_TO_ANSWER = 5.0
_METHOD = "/v1.PodResourcesLister/GetAllocatableResources"
_CPU_IDS = 2  # number of the field cpu_ids of AllocatableResourcesResponse
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class KubeletError(CmkError):
    """kubelet did not answer; the text says why."""


class Plain(CodecBase):
    """A codec that leaves messages as bytes: the request is empty, and of the answer one field counts."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        """The bytes of a message."""
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        """The message, as bytes."""
        return data


async def hands_out_cpus(socket: Path) -> bool:
    """Whether kubelet's CPU manager assigns CPUs to containers: under the policy ``none`` the answer lists no allocatable CPUs.

    Raises KubeletError.
    """
    channel = Channel(path=str(socket), codec=Plain())
    try:
        answer = await UnaryUnaryMethod(channel, _METHOD, bytes, bytes)(b"", timeout=SECONDS_TO_ANSWER)
    except (TimeoutError, OSError, GRPCError, StreamTerminatedError) as error:
        raise KubeletError(f"{socket}: {str(error) or type(error).__name__}") from error
    finally:
        channel.close()
    return any(number == _CPU_IDS and value for number, value in _fields(answer))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message, packed ones as bytes; raises KubeletError when the message is cut off."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    try:
        while at < len(message):
            number, kind = divmod(varint(), 8)
            if kind == _VARINT:
                # The value counts as a truth value: plus one, for CPU 0 is a CPU, too.
                yield number, varint() + 1
                continue
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind) or (varint() if kind == _BYTES else len(message))
            yield number, message[at : at + size]
            at += size
    except IndexError as error:
        raise KubeletError("kubelet's answer ends in the middle of a field") from error
