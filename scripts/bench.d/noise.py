"""Runs in noise pods: fifty threads that wake a thousand times a second, or files, loopback traffic and processes."""

import os
import socket
import sys
import tempfile
import threading
import time


def waker() -> None:
    """Sleeps a millisecond, works fifty microseconds."""
    while True:
        time.sleep(0.001)
        end = time.monotonic_ns() + 50_000
        while time.monotonic_ns() < end:
            pass


def storm() -> None:
    """Writes with fsync, talks to itself over loopback, forks."""
    a, b = socket.socketpair()
    with tempfile.TemporaryFile(dir="/scratch") as file:
        while True:
            file.seek(0)
            file.write(b"x" * 65536)
            file.flush()
            os.fsync(file.fileno())
            for _ in range(200):
                a.send(b"x" * 512)
                b.recv(512)
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)


threads = [threading.Thread(target=waker) for _ in range(50)] if sys.argv[1] == "waker" else [threading.Thread(target=storm)]
for thread in threads:
    thread.start()
