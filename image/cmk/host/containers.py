"""The processes of a container, by its cgroup below kubepods, so that nobody has to look at all processes of the node to find them."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from cmk.model.cgroup_path import PodContainer, parse_path

# kubelet's --cgroup-root puts kubepods a level or two down.
_KUBEPODS = ("kubepods", "kubepods.slice")
_LEVELS = 3
# The kernel answers ENODEV for a group that is removed between open and read.
GONE = (errno.ENOENT, errno.ENODEV)
# Paths of so many containers are remembered; a node has some hundreds of pods.
_REMEMBERED = 2048
# Of a container with more, all processes of the node are looked at instead: these the kernel bounds, and groups a workload may make.
_MOST_GROUPS = 1000


def find_kubepods(base: Path, is_one: Callable[[Path], bool] = Path.is_dir) -> Path | None:
    """The directory of kubepods below a hierarchy of cgroups; None if there is none for which ``is_one`` is true."""
    level = [base]
    for _ in range(_LEVELS):
        below = [entry for directory in level for entry in _directories(directory)]
        if kubepods := sorted(entry for entry in below if entry.name in _KUBEPODS and is_one(entry)):
            return kubepods[0]
        level = below
    return None


class Containers:
    """Containers of the pods on this node. ``root`` is the mount of the host's cgroups, of v1 or v2."""

    def __init__(self, root: Path) -> None:
        cpusets = root / "cpuset"
        self._base = cpusets if cpusets.is_dir() else root
        self._kubepods: Path | None = None
        self._pods: defaultdict[str, list[Path]] = defaultdict(list)
        self._paths: dict[PodContainer, list[str]] = {}

    def pids(self, container: PodContainer) -> list[int] | None:
        """Processes of a container, also in groups that it has made below its own; None if they cannot be told: its group is not found,
        or cannot be read, as one that is threaded.
        """
        try:
            return self._read(container) if container.container else None
        except OSError:
            return None

    def _read(self, container: PodContainer) -> list[int] | None:
        if container not in self._paths:
            if not (paths := self._find(container)):
                return None
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            self._paths[container] = paths
        pids = [pid for path in self._paths[container] for pid in _pids_below(path)]
        if not pids and not any(os.path.isdir(path) for path in self._paths[container]):  # noqa: PTH112  # for each task that ends
            del self._paths[container]
        return list(dict.fromkeys(pids))

    def _find(self, container: PodContainer) -> list[str]:
        return self._groups(container) or (self._list_pods() and self._groups(container)) or []

    def _groups(self, container: PodContainer) -> list[str]:
        """The container's groups right below those of its pod, as far as this is known."""
        groups = [(pod, group) for pod in self._pods.get(container.pod, ()) for group in _directories(pod)]
        return [str(group) for pod, group in groups if parse_path(f"{pod.name}/{group.name}") == container]

    def _list_pods(self) -> bool:
        """List all pods anew, once for all that have come since; returns whether there are any."""
        if self._kubepods is None:
            self._kubepods = find_kubepods(self._base)
        self._pods = defaultdict(list)
        for entry in _directories(self._kubepods) if self._kubepods else ():
            # Pods are below kubepods or below the group of their quality of service.
            found = parse_path(entry.name).pod
            for pod in [entry] if found else _directories(entry):
                self._pods[parse_path(pod.name).pod].append(pod)
        return bool(self._pods)


def _pids_below(path: str) -> Iterator[int]:
    """Processes in a group and in all below it, of which a workload may have made any number in any depth."""
    groups, number = [path], 0
    while groups:
        group, number = groups.pop(), number + 1
        if number > _MOST_GROUPS:
            raise OSError(errno.E2BIG, f"more than {_MOST_GROUPS} groups below {path}")
        try:
            with open(f"{group}/cgroup.procs", "rb", buffering=0) as file:  # noqa: PTH123  # Path doubles the cost
                listed = file.read().split()
            yield from (int(pid) for pid in listed if pid != b"0")  # 0: it is in a pid namespace that is not below ours
            if os.stat(group).st_nlink > 2:  # noqa: PTH116  # cgroups count the groups below
                groups += map(str, _directories(Path(group)))
        except OSError as error:
            # The group above one that is threaded lists its processes, if it is not the first.
            if error.errno not in GONE and (error.errno != errno.EOPNOTSUPP or group == path):
                raise


def _directories(path: Path) -> list[Path]:
    try:
        with os.scandir(path) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []
