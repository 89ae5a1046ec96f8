"""Runs in a pod of bench size: for each line of input, an owner ends while another process waits; prints milliseconds as JSON."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time

# The one real core of the exclusive pool is alone on its socket, so that whoever asks next has to wait however many cores do not exist.
REQUEST = "cmk/1 isolate\npool=exclusive\nsocket=1\ntimeout=60000"


def child(address: str, until_killed: bool) -> tuple[int, int]:
    """A process that asks for the core; returns its pid and a pipe with the times (ns) before and after its request, and the reply."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.connect(address)
        asked = time.monotonic_ns()
        agent.send(REQUEST.encode())
        reply = agent.recv(65536)
        got = time.monotonic_ns()
    os.write(write, json.dumps([asked, got, reply.decode()]).encode())
    while until_killed:
        signal.pause()
    os._exit(0)


def answer(pipe: int) -> tuple[int, int]:
    """Times before and after a child's request."""
    asked, got, reply = json.loads(os.read(pipe, 65536) or b'[0, 0, "the agent hung up"]')
    os.close(pipe)
    if not reply.startswith("cmk/1 ok"):
        raise SystemExit(f"bench: no core: {reply}")
    return asked, got


def measured(address: str) -> tuple[float, float]:
    """Milliseconds of an allocation, and from the exit of the owner to the answer to the next process."""
    owner, pipe = child(address, until_killed=True)
    try:
        asked, got = answer(pipe)
        waiter, pipe = child(address, until_killed=False)
        time.sleep(0.003 + 3 * (got - asked) / 1e9)  # by then the request is in the queue
        pidfd = os.pidfd_open(owner)
    finally:
        os.kill(owner, signal.SIGKILL)
    select.select([pidfd], [], [])
    dead = time.monotonic_ns()
    os.close(pidfd)
    os.waitpid(owner, 0)  # at once, as a container's shim does: what the agent meets meanwhile is no zombie
    _, next_got = answer(pipe)
    os.waitpid(waiter, 0)
    released = max(next_got - dead, 0)
    time.sleep(0.003 + 3 * released / 1e9)  # by then the core is free again, or the next allocation would be a release too
    return (got - asked) / 1e6, released / 1e6


if __name__ == "__main__":
    for _ in sys.stdin:
        print(json.dumps(measured(sys.argv[1])), flush=True)
