"""The table of a node report for people: pools by sockets, with the tasks on each CPU list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from cmk.host.procfs import Procfs
from cmk.model import cpuset

_MOST_TASKS = 3


def lines(report: dict[str, Any], procfs: Procfs) -> Iterator[str]:
    """One row per CPU list; a column per socket."""
    sockets = report["topology"]["sockets"]
    socket_of = {cpu["id"]: name for name, socket in sockets.items() for core in socket["cores"] for cpu in core["cpus"]}
    columns = sorted(sockets, key=int)
    rows = [["POOL", *(f"SOCKET {name}" for name in columns)]]
    for name, pool in report["description"]["pools"].items():
        cells: dict[str, list[str]] = {column: [] for column in columns}
        for item in pool["cpuLists"].values():
            cpus = cpuset.parse(item["cpus"])
            tasks = _tasks(item["tasks"], procfs) or ("free" if pool["exclusive"] else "-")
            for column in {socket_of[cpu]: None for cpu in sorted(cpus) if cpu in socket_of}:
                cells[column].append(f"{cpuset.kernel_list(cpus)}: {tasks}")
        pool_rows = zip_longest(*(cells[column] for column in columns), fillvalue="")
        rows += [[name if index == 0 else "", *row] for index, row in enumerate(pool_rows)]
    yield from aligned(rows)
    for error in report["checks"]["configDirectory"]["errors"]:
        yield f"ERROR: {error}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """One line per row, with the cells of a column at the same place in each."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _tasks(pids: list[int], procfs: Procfs) -> str:
    shown = ", ".join(f"{pid} {_name(pid, procfs)}".strip() for pid in pids[:_MOST_TASKS])
    return f"{shown} and {len(pids) - _MOST_TASKS} more" if len(pids) > _MOST_TASKS else shown


def _name(pid: int, procfs: Procfs) -> str:
    try:
        name = procfs.name(pid)
    except ProcessLookupError:
        return ""
    return "".join(char if char.isprintable() else "?" for char in name)
