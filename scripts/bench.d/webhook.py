"""bench webhook: cmk webhook, http.server and nginx with the same answers, each on the first CPU; the load comes from the last CPU."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reviews import reviews

from cmk.certificates import pki

HERE = Path(__file__).parent
# The image's Python is built with profile-guided optimisation, a version manager's often is not: /usr/bin/python3 is closer to the image.
PYTHON = os.environ.get("CMK_BENCH_PYTHON", sys.executable)
PACKAGES = os.pathsep.join([str(HERE.parents[1] / "image"), *(path for path in sys.path if path.endswith("site-packages"))])
CPUS = sorted(os.sched_getaffinity(0))
TICK = os.sysconf("SC_CLK_TCK")
BODIES = reviews()
SECONDS = 2
CONNECTIONS = 16


class Server:
    """A serving process, and the CPU time and memory that it has used."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.port, self._process = port, process

    def _pids(self) -> list[int]:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return [self._process.pid, *map(int, children)]

    def cpu(self) -> float:
        """Seconds."""
        found = 0
        for pid in self._pids():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            found += int(fields[11]) + int(fields[12])
        return found / TICK

    def rss(self) -> float:
        """MiB."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self._pids()]
        return sum(int(re.findall(r"VmRSS:\s*(\d+)", text)[0]) for text in texts) / 1024


@contextmanager
def serving(root: Path, name: str, port: int) -> Iterator[Server]:
    """One of the three."""
    cert, key = root / "tls.crt", root / "tls.key"
    if name == "cmk webhook":
        files = {"binding-address": "127.0.0.1", "port": port, "cert": str(cert), "key": str(key)}
        (root / "server.yaml").write_text(json.dumps({"server": files}))
        line = [PYTHON, "-m", "cmk", "webhook", f"--conf-file={root}/server.yaml", "--insecure=true", "--log-level=ERROR"]
    elif name == "http.server":
        line = [PYTHON, str(HERE / "httpserver.py"), str(port), str(cert), str(key)]
    else:
        (root / "nginx.conf").write_text(
            NGINX.format(root=root, port=port, answer=json.dumps({"response": {"uid": "u", "allowed": True}}))
        )
        line = ["nginx", "-c", f"{root}/nginx.conf", "-e", f"{root}/nginx.log"]
    with subprocess.Popen(["taskset", "-c", str(CPUS[0]), *line], env={**os.environ, "PYTHONPATH": PACKAGES}) as process:
        try:
            asyncio.run(until_up(root, port))
            yield Server(port, process)
        finally:
            process.terminate()


NGINX = """
daemon off; pid {root}/nginx.pid; worker_processes 1; user root;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_timeout 120; keepalive_requests 1000000; client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {root}/tls.crt; ssl_certificate_key {root}/tls.key; ssl_session_tickets off;
    location / {{ default_type application/json; return 200 '{answer}'; }}
  }}
}}
"""


def context(root: Path) -> ssl.SSLContext:
    """A client's."""
    found = ssl.create_default_context(cafile=str(root / "ca.crt"))
    found.check_hostname = False
    return found


async def until_up(root: Path, port: int) -> None:
    """Wait for the first handshake."""
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context(root))
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise SystemExit(f"bench: nobody listens on {port}")


def on_last_cpu(*line: str) -> str:
    """Output of a command."""
    return subprocess.run(["taskset", "-c", str(CPUS[-1]), *line], capture_output=True, text=True, check=True).stdout


def saturate(root: Path, server: Server) -> tuple[float, float]:
    """As many requests as possible on kept connections: requests per second, and per second of the server's CPU time."""
    before = server.cpu()
    text = on_last_cpu(
        "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", f"{root}/post.lua", f"https://127.0.0.1:{server.port}/mutate"
    )
    if bad := re.search(r"Non-2xx.*|Socket errors.*", text):
        raise SystemExit(f"bench: {bad[0]}")
    count = int(re.findall(r"(\d+) requests in", text)[0])
    return float(re.findall(r"Requests/sec:\s*([\d.]+)", text)[0]), count / (server.cpu() - before)


def shake(server: Server) -> tuple[float, float]:
    """New connections with full handshakes: handshakes per second, and per second of the server's CPU time."""
    before = server.cpu()
    text = on_last_cpu("openssl", "s_time", "-connect", f"127.0.0.1:{server.port}", "-new", "-time", str(SECONDS))
    count = int(re.findall(r"(\d+) connections in \d+ real seconds", text)[0])
    return count / SECONDS, count / (server.cpu() - before)


async def at_rate(root: Path, server: Server, rate: int, seconds: float) -> list[float]:
    """Milliseconds of each request; each is sent when due, whether earlier ones are answered or not."""
    times: list[float] = []
    free: asyncio.LifoQueue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue()
    tls = context(root)
    heads = [b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body for body in BODIES]

    async def one(number: int, due: float) -> None:
        try:
            reader, writer = free.get_nowait()
        except asyncio.QueueEmpty:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls)
        writer.write(heads[number % len(heads)])
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
        times.append((time.perf_counter() - due) * 1000)
        free.put_nowait((reader, writer))

    start = time.perf_counter() + 0.1
    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, time.perf_counter())))
    await asyncio.gather(*tasks)
    while not free.empty():
        free.get_nowait()[1].close()
    return times


def main(root: Path, rounds: int) -> None:
    """Rounds of every measure on every server, in random order; medians and ratios."""
    issued = pki.issue(["localhost"], datetime.now(UTC), timedelta(days=1))
    for name, data in (("tls.crt", issued.cert), ("tls.key", issued.key), ("ca.crt", issued.ca)):
        (root / name).write_bytes(data)
    quoted = ",".join(json.dumps(body.decode()) for body in BODIES)
    ask = 'wrk.method = "POST"\nrequest = function() n = n + 1; return wrk.format(nil, nil, nil, b[n % #b + 1]) end\n'
    lua = f"local b = {{{quoted}}}\nlocal n = 0\n{ask}"
    (root / "post.lua").write_text(lua)
    names = ("cmk webhook", "http.server", "nginx, canned")
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    os.sched_setaffinity(0, {CPUS[-1]})
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving(root, name, 18400 + index)) for index, name in enumerate(names)}
        for number in range(rounds):
            print(f"  round {number + 1} of {rounds}", file=sys.stderr)
            for name in random.sample(names, len(names)):
                note(found[name], root, servers[name])
        for name, server in servers.items():
            found[name]["RSS MiB"] = [server.rss()]
    print(f"{'median of ' + str(rounds) + ' rounds':28}" + "".join(f"{name:>16}" for name in names) + "   ours/http.server")
    for measure in found[names[0]]:
        middle = [sorted(found[name][measure])[len(found[name][measure]) // 2] for name in names]
        print(f"{measure:28}" + "".join(f"{value:16.2f}" for value in middle) + f"{middle[0] / middle[1]:19.2f}")


def note(found: dict[str, list[float]], root: Path, server: Server) -> None:
    """One round of one server."""
    achieved, capacity = saturate(root, server)
    handshakes, handshake_capacity = shake(server)
    values = {
        "requests/s achieved": achieved,
        "requests/s per core": capacity,
        "handshakes/s achieved": handshakes,
        "handshakes/s per core": handshake_capacity,
    }
    for rate in (100, 1000):
        times = sorted(asyncio.run(at_rate(root, server, rate, SECONDS * 2)))
        values |= {f"p50 ms at {rate}/s": times[len(times) // 2], f"p99 ms at {rate}/s": times[len(times) * 99 // 100]}
    for measure, value in values.items():
        found.setdefault(measure, []).append(value)


main(Path(sys.argv[1]), int(sys.argv[2]))
