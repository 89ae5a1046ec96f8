"""cpuset cgroups below kubepods, of cgroup v1 (also in a hybrid set-up) and v2: found, read, written. Nothing above is ever written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cmk.isolation import kernel_file
from cmk.model import cpuset
from cmk.model.cgroup_path import parent_of
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError

FILE = "cpuset.cpus"
# kubelet's --cgroup-root puts kubepods a level or two down.
_KUBEPODS = ("kubepods", "kubepods.slice")
_LEVELS = 3
# A group that vanishes between open and read says ENODEV.
GONE = (errno.ENOENT, errno.ENODEV)


class CgroupError(CmkError):
    """There are no cpusets of pods to work with; the text says what is missing."""


class Cpusets:
    """The tree under one mount of the host's cgroups. Groups are named by their path relative to kubepods (``""``). Methods raise OSError.

    ``strict`` tells cgroup v1.
    """

    def __init__(self, root: Path) -> None:
        """Raises CgroupError."""
        self.strict = (root / "cpuset" / FILE).exists()
        base = root / "cpuset" if self.strict else root
        if not self.strict and "cpuset" not in _text(root / "cgroup.controllers").split():
            raise CgroupError(f"{root} has no cpuset controller: neither cgroup v1's nor v2's")
        self.top = _find_kubepods(base)
        self._root = root
        self._prefix = str(self.top)

    def read(self, path: str) -> CpuSet | None:
        """CPUs configured for a group; None for a group of cgroup v2 with nothing configured."""
        text = self.text(path, FILE)
        return cpuset.parse(text) if text or self.strict else None

    def write(self, path: str, cpus: CpuSet | None) -> None:
        """Configure a group."""
        self.write_text(path, FILE, cpuset.kernel_list(cpus or ()))

    def text(self, path: str, name: str) -> str:
        """What a file of a group says, without the line's end."""
        fd = os.open(f"{self._prefix}/{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536).decode().strip()
        finally:
            os.close(fd)

    def write_text(self, path: str, name: str, text: str) -> None:
        """Write a file of a group."""
        kernel_file.write(f"{self._prefix}/{path}/{name}", text)

    def give_back(self, path: str, cpus: CpuSet | None) -> None:
        """Configure what a group once had. One with tasks cannot be emptied again: what its parent has comes to the same."""
        try:
            self.write(path, cpus)
        except OSError as error:
            if cpus or error.errno != errno.ENOSPC:
                raise
            self.write(path, self.effective(parent_of(path) if path else None))

    def effective(self, path: str | None = None) -> CpuSet:
        """CPUs that tasks of a group can get; without one, of the group above kubepods."""
        name = "cpuset.effective_cpus" if self.strict else "cpuset.cpus.effective"
        return cpuset.parse(self.text(".." if path is None else path, name))

    def with_realtime(self) -> list[Path]:
        """Groups below kubepods that have a budget for realtime, which is shared out by CPU; cgroup v1 alone has them."""
        found = []
        if self.strict:
            for file in sorted((self._root / "cpu" / self.top.relative_to(self._root / "cpuset")).rglob("cpu.rt_runtime_us")):
                try:
                    if int(file.read_text()):
                        found.append(file.parent)
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        return found

    def walk(self, path: str = "") -> Iterator[tuple[str, CpuSet | None]]:
        """A group and all below it, parents first; what vanishes meanwhile is left out."""
        try:
            yield path, self.read(path)
            with os.scandir(f"{self._prefix}/{path}") as entries:
                below = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            if error.errno not in GONE:
                raise
            return
        for name in below:
            yield from self.walk(f"{path}/{name}" if path else name)

    def directory(self, path: str) -> Path:
        """Where a group is."""
        return self.top / path if path else self.top

    def name_of(self, directory: Path) -> str:
        """The group at a directory."""
        return "" if directory == self.top else str(directory)[len(self._prefix) + 1 :]


def _find_kubepods(base: Path) -> Path:
    level = [base]
    for _ in range(_LEVELS):
        below = [entry for directory in level for entry in _directories(directory)]
        if found := sorted(entry for entry in below if entry.name in _KUBEPODS and (entry / FILE).exists()):
            return found[0]
        level = below
    raise CgroupError(f"no kubepods with a {FILE} below {base}: does kubelet run with --cgroups-per-qos=false?")


def _directories(path: Path) -> list[Path]:
    try:
        return [entry for entry in path.iterdir() if entry.is_dir()]
    except OSError as error:
        if error.errno not in GONE:
            raise
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise CgroupError(f"cannot read {path}: {error.strerror}") from error
