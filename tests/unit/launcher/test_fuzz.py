"""The static launcher, built with the sanitizers of gcc, with random words, variables and replies: it ends with a code that it may have.

A run that fails happens again with ``CMK_FUZZ_SEED``.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tests.unit.launcher.conftest import SOURCES

RUNS = 500
FINDING = 66
# Those of the launcher, help, the workload (true, and what a shell says of one that cannot run), and the reader of a closed pipe.
MAY_END_WITH = {0, 1, 75, 78, 126, 127}
FILES = ["launch.c", "grammar.c", "ask.c", "run.c", "say.c"]
WORDS = [
    b"--pool=shared", b"--pool", b"shared", b"--socket-id=1", b"--socket-id", b"--s=99999999999999999999", b"--no-affinity",
    b"--on-move=notify:" + b"x" * 60, b"--on-move", b"--wait", b"--help", b"-h", b"--", b"-", b"--c", b"--conf-dir=" + b"/x" * 80,
    b"--conf-dir=/", b"--in", b"true", b"--n=1", b"--p=", b"", b"--interval=0", b"--publish",
]  # fmt: skip
GOOD = [
    [b"isolate", b"--pool=shared", b"true"],
    [b"isolate", b"--pool=exclusive", b"--wait", b"--on-move=notify", b"true"],
    [b"describe"],
    [b"node-report"],
]
TIMEOUTS = [b"0.2", b"0.05", b"0.05", b"nan", b"1e-9", b"-1", b"inf", b"x", b"0x1p-3", b"9" * 400]
CORES = [b"1", b"0", b"65536", b"999999999999999999999", b"-1", b" 2", b"2x"]
REPLIES = [
    b"",
    b"cmk/1 ok",
    b"cmk/1 ok\nlength=2",
    b"cmk/1 ok\nlength=" + b"9" * 500,
    b"cmk/1 ok\nlength=",
    b"cmk/1 ok\n=\nCMK_=\nCMK_X\n\n",
    b"cmk/1 ok\nCMK_CPUS_ASSIGNED=" + b"1," * 30000,
    b"cmk/1 ok\nCMK_CPUS_ASSIGNED=" + b"1," * 33000,
    b"\n" * 100,
    b"\0",
]


class Fuzz:
    """Random input, all of it from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # the same input again from the same seed

    def blob(self, most: int) -> bytes:
        return bytes(self._random.randrange(1, 256) for _ in range(self._random.randrange(most)))

    def reply(self) -> list[bytes]:
        """The packets of one answer."""
        match self._random.randrange(8):
            case 0:
                first = self.blob(300)
            case 1:
                first = self._random.randbytes(self._random.choice([5, 300, 70000]))
            case 2:
                lines = (b"CMK_" + self.blob(20) + b"=" + self.blob(3000) for _ in range(self._random.randrange(8)))
                first = b"cmk/1 ok\n" + b"\n".join(lines)
            case 3:
                first = b"cmk/1 error %d\n" % self._random.choice([75, 78, 0, -1, 99999999999]) + self.blob(6000)
            case 4:
                first = b"cmk/1 ok\nCMK_STATE=" + b"x" * self._random.choice([0, 10, 200, 300, 60000])
            case _:
                first = self._random.choice(REPLIES)
        return [first, *(self.blob(2000) for _ in range(self._random.randrange(3)))]

    def words(self) -> list[bytes]:
        """The command line after the program; half of them reach the agent, for most random ones are refused."""
        choice = self._random.choice
        if self._random.random() < 0.5:
            return choice(GOOD)
        command = choice([b"isolate"] * 8 + [b"describe", b"node-report", b"init", b"--help", b"--version", self.blob(5)])
        rest = [choice(WORDS) if self._random.random() < 0.9 else self.blob(4000) for _ in range(self._random.randrange(7))]
        return [b"isolate", b"--pool=shared", *rest, b"true"] if self._random.random() < 0.6 else [command, *rest]

    def variables(self, path: bytes) -> dict[bytes, bytes]:
        """The environment."""
        chance, choice = self._random.random, self._random.choice
        variables = {b"PATH": b"/bin:/usr/bin", b"CMK_LOCK_TIMEOUT": b"0.1", b"CMK_SOCKET": path}
        if chance() < 0.3:
            variables[b"CMK_LOCK_TIMEOUT"] = choice([*TIMEOUTS, self.blob(200)])
        if chance() < 0.1:
            del variables[b"CMK_SOCKET"]
        elif chance() < 0.1:
            variables[b"CMK_SOCKET"] = choice([b"", b"/" + b"a" * choice([50, 106, 107, 108, 300, 5000]), self.blob(40)])
        if chance() < 0.2:
            variables[b"CMK_NUM_CORES"] = choice([*CORES, self.blob(90)])
        return variables


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher with AddressSanitizer and UndefinedBehaviorSanitizer."""
    gcc = shutil.which("gcc")
    if gcc is None:
        missing("there is no gcc")
    program = tmp_path_factory.mktemp("fuzz") / "cmk"
    flags = ["-g", "-O1", "-std=gnu11", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", '-DCMK_VERSION="fuzz"']
    line = [gcc, *flags, "-o", program, *FILES]
    done = subprocess.run(line, cwd=SOURCES, capture_output=True, text=True, check=False)
    if "cannot find" in done.stderr and "san" in done.stderr:
        missing(f"gcc has no sanitizers: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return program


def missing(what: str) -> NoReturn:
    """Skip, or fail in continuous integration, which must not pass without this test."""
    text = f"the launcher is not tested with random input: {what}"
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)  # a contributor may have no gcc, or one without sanitizers; continuous integration has them


@contextmanager
def serving(path: Path, fuzz: Fuzz) -> Iterator[None]:
    """An agent that answers anything."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(64)

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.settimeout(1)
                client.recv(5000)
                for packet in fuzz.reply():
                    client.send(packet)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_random_input_finds_nothing(checked: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("CMK_FUZZ_SEED") or time.time_ns() % 10**9)
    print(f"CMK_FUZZ_SEED={seed}")
    fuzz, codes = Fuzz(seed), Counter[int]()
    path = tmp_path / "fuzz.sock"
    options = f"detect_leaks=0:exitcode={FINDING}".encode()
    with serving(path, Fuzz(seed + 1)):
        for _ in range(RUNS):
            words = fuzz.words()
            variables = {name: value.replace(b"\0", b"") for name, value in fuzz.variables(bytes(path)).items()}
            sanitizers = {b"ASAN_OPTIONS": options, b"UBSAN_OPTIONS": options}
            done = subprocess.run(
                [bytes(checked), *words],
                env=variables | sanitizers,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=60,
            )
            codes[done.returncode] += 1
            assert done.returncode in MAY_END_WITH, (seed, words, variables, done.stderr[:4000])
            assert b"runtime error" not in done.stderr, (seed, words, variables, done.stderr[:4000])
    print(dict(codes))
    assert {0, 75, 78} <= codes.keys()  # it does get everywhere
