"""bench direct: the start of a program by ``cmk isolate`` in direct mode, compared with Python that does nothing and with ``taskset``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.topologies import SHAPES
from tests.topologies.layouts import topology_of
from timing import interleaved, row

import cmk
from cmk.model.config import PoolConfig
from cmk.model.layout import compute

IMAGE = Path(cmk.__file__).parents[1]


def main(pools: str, rounds: int) -> None:
    """Print the table."""
    subprocess.run(
        [sys.executable, "-m", "cmk", "init", f"--conf-dir={pools}", "--num-exclusive-cores=1", "--num-shared-cores=0"],
        check=True,
    )
    cpu = str(min(os.sched_getaffinity(0)))
    isolated = ["isolate", f"--conf-dir={pools}", "--pool=exclusive", "/bin/true"]
    start = f"import sys; sys.path.insert(0, {str(IMAGE)!r}); from cmk.__main__ import main; sys.exit(main())"
    commands = {
        "bare /bin/true": ["/bin/true"],
        "taskset -c": ["taskset", "-c", cpu, "/bin/true"],
        "python -I -S -c pass": [sys.executable, "-I", "-S", "-c", "pass"],
        "cmk isolate, python -I -S": [sys.executable, "-I", "-S", "-c", start, *isolated],
        "cmk isolate, installed": [str(Path(sys.executable).with_name("cmk")), *isolated],
    }
    times = interleaved(commands, rounds, {"PATH": "/usr/bin:/bin"})
    bases = {name: times[name] for name in ("taskset -c", "python -I -S -c pass")}
    print(f"{'microseconds, ' + str(rounds) + ' rounds':32}{'min':>10}{'p50':>10}{'p99':>10}{'x taskset':>12}{'x python':>12}")
    for name, taken in times.items():
        print(row(name, taken, bases))
    largest = topology_of(max(SHAPES, key=lambda shape: len(shape.cores)))
    asked = {"exclusive": PoolConfig(-1, exclusive=True, mode="spread"), "shared": PoolConfig(8), "infra": PoolConfig("rest")}
    layouts = []
    for _ in range(20):
        begin = time.perf_counter_ns()
        compute(largest, asked)
        layouts.append((time.perf_counter_ns() - begin) / 1000)
    print(row(f"layout of {len(largest.cpus)} CPUs", layouts, {}))


main(sys.argv[1], int(sys.argv[2]))
