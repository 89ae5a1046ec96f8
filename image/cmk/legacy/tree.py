"""The directory tree with the state of kcm and CMK up to 1.4.1: ``pools/<pool>/[<socket>/]<cpulist>/tasks`` (see their ``config.py``)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cmk.host.procfs import Procfs
from cmk.legacy.takeover import AdoptionError, OldPool, OldTask, TakenOver, parse_tasks
from cmk.model import cpuset
from cmk.model.cgroup_path import MixedCgroupsError
from cmk.model.tasks import Task

POOLS = "pools"
_MOST_BYTES = 1 << 16


def exists(directory: Path) -> bool:
    """Whether a directory holds such a tree."""
    return (directory / POOLS).is_dir()


def read(directory: Path) -> dict[str, OldPool]:
    """Read the tree; raises AdoptionError."""
    pools = {}
    try:
        for pool in sorted((directory / POOLS).iterdir()):
            _refuse_odd(pool)
            exclusive = _plain_text(pool / "exclusive").strip()
            if exclusive not in {"0", "1"}:
                raise AdoptionError(f"{pool}/exclusive has {exclusive[:20]!r}, which is neither 0 nor 1")
            lists: dict[str, tuple[int, ...]] = {}
            for path in sorted([*pool.glob("*/tasks"), *pool.glob("*/*/tasks")]):  # without and with the socket
                _refuse_odd(path)
                if path.parent.name in lists:
                    raise AdoptionError(f"{path.parent} is the second list {path.parent.name} of pool {pool.name}")
                lists[path.parent.name] = parse_tasks(str(path), _plain_text(path))
            pools[pool.name] = OldPool(exclusive == "1", lists)
    except OSError as error:
        raise AdoptionError(f"cannot read {error.filename}: {error.strerror}") from error
    if not pools:
        raise AdoptionError(f"{directory / POOLS} has no pools")
    return pools


def _refuse_odd(path: Path) -> None:
    """Names go into the report, whose text is UTF-8, and into logs."""
    if not (str(path).isascii() and str(path).isprintable()):
        raise AdoptionError(f"the path {str(path)!a} is not plain text")


def _plain_text(path: Path) -> str:
    """The text of a small regular file. Old manifests let pods write here, so links, pipes and long files are refused."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise AdoptionError(f"{path} is not a regular file")
        data = os.read(fd, _MOST_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _MOST_BYTES:
        raise AdoptionError(f"{path} is longer than {_MOST_BYTES} bytes")
    return data.decode(errors="replace")


def set_aside(directory: Path) -> Path:
    """Rename the tree within its directory; returns its new path. Raises OSError."""
    for number in range(1, 1000):
        target = directory / f"{POOLS}.old{number if number > 1 else ''}"
        if not target.exists():
            (directory / POOLS).rename(target)
            return target
    raise FileExistsError(17, f"remove some of its {POOLS}.old directories: there are too many", str(directory))


def living_tasks(state: TakenOver, procfs: Procfs) -> tuple[list[Task], list[str]]:
    """The tasks whose pid is alive with its affinity within its old list, and for each other task the reason why it is dropped."""
    tasks: dict[tuple[int, str], Task] = {}
    dropped = []
    for old in state.tasks:
        name = f"process {old.pid} of pool {old.pool}"
        try:
            process, mask = procfs.process(old.pid), frozenset(os.sched_getaffinity(old.pid))
            if not procfs.is_alive(process):
                raise ProcessLookupError
            place = procfs.pod_container(old.pid)
        except (ProcessLookupError, PermissionError, MixedCgroupsError):
            dropped.append(f"{name} does not run any more")
            continue
        # Several lists of an exclusive pool make one task, whose affinity is all of them.
        held = [task for task in state.tasks if task.pid == old.pid and task.pool == old.pool]
        if not mask <= frozenset().union(*(task.cpus for task in held)):
            dropped.append(
                f"{name} may run on CPUs {cpuset.kernel_list(mask)}, not only on {_lists(held)}: another process has its pid"
            )
            continue
        pool = state.layout.pools[old.pool]
        lists = [name for task in held for name in task.lists]
        if not pool.exclusive:
            lists = [item.name for item in pool.lists if item.cpus & mask][:1]
        tasks[old.pid, old.pool] = Task(
            process=process,
            pool=old.pool,
            lists=tuple(dict.fromkeys(lists)),
            pod=place.pod,
            container=place.container,
            cores=len(lists),
        )
    return list(tasks.values()), list(dict.fromkeys(dropped))


def _lists(tasks: list[OldTask]) -> str:
    return cpuset.kernel_list(frozenset().union(*(task.cpus for task in tasks)))
