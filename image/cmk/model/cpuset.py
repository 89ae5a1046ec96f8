"""Sets of logical CPUs and the kernel's list syntax (Documentation/admin-guide/kernel-parameters.rst, "cpu lists").

A CPU set is a ``frozenset[int]`` of logical CPU ids. Text is what the kernel reads and writes: ``0-3,8``, with groups ``0-15:2/4``
(from each run of 4, the first 2), ``N`` for the last CPU and ``all``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from cmk.model.errors import CmkError

CpuSet = frozenset[int]

# The kernel's largest NR_CPUS is 8192; the bound keeps a typing error such as 0-99999999999 from eating memory.
MAX_CPU = 65535

_ITEM = re.compile(r"(?P<first>[0-9]+|N)(?:-(?P<last>[0-9]+|N)(?::(?P<used>[0-9]+)/(?P<group>[0-9]+))?)?\Z")
_LONGEST_ITEM = 80  # characters; Python refuses to read a number of thousands of digits


class CpuSetError(CmkError):
    """Text that is not a valid CPU list; the text of the error names the part that is wrong."""


def parse(text: str, last_cpu: int | None = None) -> CpuSet:
    """Read a kernel CPU list; blank text is the empty set. ``last_cpu`` gives ``N`` and ``all`` their meaning.

    Raises CpuSetError for anything the kernel would refuse.
    """
    cpus: set[int] = set()
    if not text.strip():
        return frozenset()
    for raw in text.strip().split(","):
        item = raw.strip()
        if item.lower() == "all":
            cpus.update(range(_resolve("N", last_cpu, text) + 1))
            continue
        match = _ITEM.match(item) if len(item) <= _LONGEST_ITEM else None
        if match is None:
            raise CpuSetError(f"{item!r} in CPU list {text!r} is not a CPU, range or group; write it as in 0-3,8 or 0-15:2/4")
        first = _resolve(match["first"], last_cpu, text)
        last = _resolve(match["last"] or match["first"], last_cpu, text)
        if first > last:
            raise CpuSetError(f"range {item!r} in CPU list {text!r} runs backwards")
        used, group = int(match["used"] or 1), int(match["group"] or 1)
        if not 0 < used <= group:
            raise CpuSetError(f"group {item!r} in CPU list {text!r} must use between 1 and {group} of every {group} CPUs")
        cpus.update(cpu for cpu in range(first, last + 1) if (cpu - first) % group < used)
    return frozenset(cpus)


def _resolve(number: str, last_cpu: int | None, text: str) -> int:
    if number == "N":
        if last_cpu is None:
            raise CpuSetError(f"'N' or 'all' in CPU list {text!r} needs to know the machine's last CPU")
        return last_cpu
    if int(number) > MAX_CPU:
        raise CpuSetError(f"CPU {number} in CPU list {text!r} is beyond {MAX_CPU}")
    return int(number)


def kernel_list(cpus: Iterable[int]) -> str:
    """Format as the kernel prints it: sorted, runs joined (``0-3,8``)."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
