"""What benchmarks measure of an API server and of what it sends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import urllib3

TICKS = os.sysconf("SC_CLK_TCK")


class Counter:
    """Bytes of answers that the client has read."""

    def __init__(self) -> None:
        self.bytes = 0
        read, stream = urllib3.HTTPResponse.read1, urllib3.HTTPResponse.stream

        def counting(response: urllib3.HTTPResponse, *args: object, **options: object) -> bytes:
            data = read(response, *args, **options)
            self.bytes += len(data)
            return data

        def counting_stream(response: urllib3.HTTPResponse, *args: object, **options: object) -> Iterator[bytes]:
            for data in stream(response, *args, **options):
                self.bytes += len(data)
                yield data

        urllib3.HTTPResponse.read1 = counting
        urllib3.HTTPResponse.stream = counting_stream


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
