"""Everything that an unprivileged pod can do to the agent's socket, for some seconds. Its text is an argument of Python inside a pod.

Prints how often each kind was done. Every kind goes on whatever the agent answers, and the processes end with the pod.
"""

import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import suppress

SOCKET, SECONDS, SEED = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
END = time.monotonic() + SECONDS
DONE: Counter[str] = Counter()
DIGITS = b"9" * 400
HEAD = b"cmk/1 isolate\n"
ODD = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"cmk/1",
    b"cmk/2 isolate\npool=infra",
    HEAD + b"pool=infra\ntimeout=" + DIGITS,
    HEAD + b"pool=infra\ncores=" + DIGITS,
    HEAD + b"pool=exclusive\ncores=" + DIGITS,
    HEAD + b"pool=infra\nsocket=" + DIGITS,
    HEAD + b"pool=infra\ncores=-" + DIGITS,
    HEAD + b"pool=infra\ntimeout=-1",
    HEAD + b"pool=infra\ntimeout=1e400",
    HEAD + b"pool=infra\ntimeout=nan",
    HEAD + "pool=infra\ncores=\u0665".encode(),
    HEAD + b"pool=\x1b]0;owned\x07\x1b[2J",
    HEAD + b"pool=a\0b",
    HEAD + b"pool=" + b"x" * 4000,
    HEAD + b"pool=infra\non-move=" + b"\x1b" * 3000,
    HEAD + b"pool=exclusive\ncores=1\ntimeout=3600000",
    b"cmk/1 describe",
    b"cmk/1 node-report",
]


def ask(packet: bytes) -> socket.socket:
    """A connection on which this was sent."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(5)
    try:
        connection.connect(SOCKET)
        connection.send(packet)
    except OSError:
        connection.close()
        raise
    return connection


def goes_on(kind: str) -> bool:
    """Whether there is time for one more of this kind, which is counted."""
    DONE[kind] += 1
    return time.monotonic() < END


def send_odd_packets(dice: random.Random) -> None:
    """Packets that no launcher sends, half of them mutilated."""
    while goes_on("odd packet"):
        packet = bytearray(dice.choice(ODD))
        if packet and dice.random() < 0.5:
            for _ in range(dice.randrange(1, 8)):
                packet[dice.randrange(len(packet))] = dice.randrange(256)
        with suppress(OSError), ask(bytes(packet)) as connection:
            if dice.random() < 0.5:
                connection.settimeout(0.2)
                connection.recv(65536)


def flood() -> None:
    """Requests as fast as they go, whose answers nobody reads."""
    while goes_on("flood"):
        with suppress(OSError):
            ask(HEAD + b"pool=nothing").close()


def knock() -> None:
    """Connections as fast as they go, without ever waiting for room in the agent's queue."""
    while goes_on("knock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as connection:
            connection.connect_ex(SOCKET)


def keep_silent() -> None:
    """Hundreds of connections that say nothing."""
    while goes_on("silence"):
        held = []
        for _ in range(700):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            held.append(connection)
            if connection.connect_ex(SOCKET):
                break
        time.sleep(1)
        for connection in held:
            connection.close()


def fork_and_leave(dice: random.Random) -> None:
    """Clients that end in every way while their request waits or is served."""
    while goes_on("fork"):
        child = os.fork()
        if child == 0:
            with suppress(OSError):
                _end_somehow(dice.randrange(4))
            os._exit(0)
        os.waitpid(child, 0)
        dice.random()


def _end_somehow(way: int) -> None:
    pool = b"infra" if way else b"exclusive"
    connection = ask(HEAD + b"pool=" + pool + b"\ntimeout=2000")
    if way == 1:
        return  # before the answer
    if os.fork() == 0:  # the connection lives on in a child
        if way == 2:
            connection.recv(65536)
        time.sleep(0.5)
        os._exit(0)
    if way == 3:
        connection.recv(65536)


def start_threads() -> None:
    """A client whose threads start threads while it is pinned."""

    def breed(depth: int) -> None:
        if depth and time.monotonic() < END:
            with suppress(RuntimeError):
                threading.Thread(target=breed, args=(depth - 1,)).start()

    while goes_on("thread"):
        child = os.fork()
        if child == 0:
            with suppress(OSError):
                for _ in range(20):
                    threading.Thread(target=breed, args=(30,)).start()
                ask(HEAD + b"pool=infra").recv(65536)
            os._exit(0)
        os.waitpid(child, 0)


def hold_tasks() -> None:
    """As many tasks of a shared pool as the agent lets one pod have."""
    children = []
    while goes_on("task") and len(children) < 400:
        child = os.fork()
        if child == 0:
            with suppress(OSError):
                ask(HEAD + b"pool=infra").recv(65536)
            time.sleep(max(END - time.monotonic(), 0))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def main() -> None:
    """Every kind in a process of its own, so that none stands in the way of another."""
    kinds = [keep_silent, start_threads, hold_tasks, *[knock] * 2, *[flood] * 3, *[send_odd_packets] * 2, *[fork_and_leave] * 2]
    children = []
    for number, kind in enumerate(kinds):
        child = os.fork()
        if child == 0:
            dice = random.Random(f"{SEED}/{number}")  # noqa: S311  # to be repeated
            if kind is flood:
                others = [threading.Thread(target=flood) for _ in range(20)]
                for other in others:
                    other.start()
                for other in others:
                    other.join()
            elif kind in (send_odd_packets, fork_and_leave):
                kind(dice)  # type: ignore[operator]
            else:
                kind()  # type: ignore[operator]
            print(dict(DONE), flush=True)
            os._exit(0)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    print("done" if not failed else f"{len(failed)} kinds of attack ended early", flush=True)


main()
