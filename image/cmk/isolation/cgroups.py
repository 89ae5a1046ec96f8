"""The tree of cpuset cgroups below kubepods, read and written: cgroup v1 (also in a hybrid set-up) and v2. Nothing above is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from cmk.host.containers import GONE, find_kubepods
from cmk.isolation import kernel_file
from cmk.model import cpuset
from cmk.model.cgroup_path import parent_of
from cmk.model.cpuset import CpuSet
from cmk.model.errors import CmkError

FILE = "cpuset.cpus"


class CgroupError(CmkError):
    """This host has no cpusets of pods to work with; the text names what is missing."""


class CpusetTree:
    """The tree under one mount of the host's cgroups. Groups are named by their path relative to kubepods (``""``). Methods raise OSError.

    ``strict``: whether this is cgroup v1, where the CPUs of a child must be within its parent's.
    """

    def __init__(self, root: Path) -> None:
        """Raises CgroupError."""
        self.strict = (root / "cpuset" / FILE).exists()
        base = root / "cpuset" if self.strict else root
        if not self.strict and "cpuset" not in _text(root / "cgroup.controllers").split():
            raise CgroupError(
                f"{root} has no cpuset controller, neither of cgroup v1 nor of v2: enable it, or switch this layer off"
            )
        top = find_kubepods(base, lambda path: (path / FILE).exists())
        if top is None:
            raise CgroupError(f"{base} has no kubepods with a {FILE} below it: does kubelet run with --cgroups-per-qos=false?")
        self.top = top
        self._root = root
        self._prefix = str(self.top)

    def read(self, path: str) -> CpuSet | None:
        """CPUs configured for a group; None for a group of cgroup v2 with nothing configured."""
        text = self.read_file(path, FILE)
        return cpuset.parse(text) if text or self.strict else None

    def write(self, path: str, cpus: CpuSet | None) -> None:
        """Configure the CPUs of a group."""
        self.write_file(path, FILE, cpuset.kernel_list(cpus or ()))

    def read_file(self, path: str, name: str) -> str:
        """The content of one file of a group, without the newline at its end."""
        fd = os.open(f"{self._prefix}/{path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536).decode().strip()
        finally:
            os.close(fd)

    def write_file(self, path: str, name: str, text: str) -> None:
        """Write one file of a group."""
        kernel_file.write(f"{self._prefix}/{path}/{name}", text)

    def restore(self, path: str, cpus: CpuSet | None) -> None:
        """Configure the CPUs that a group once had. A group with tasks cannot be emptied: it gets all CPUs of its parent, which amounts
        to the same.
        """
        try:
            self.write(path, cpus)
        except OSError as error:
            if cpus or error.errno != errno.ENOSPC:
                raise
            self.write(path, self.effective(parent_of(path) if path else None))

    def effective(self, path: str | None = None) -> CpuSet:
        """CPUs that tasks of a group can use; without a path, those of the group above kubepods."""
        name = "cpuset.effective_cpus" if self.strict else "cpuset.cpus.effective"
        return cpuset.parse(self.read_file(".." if path is None else path, name))

    def with_realtime_budget(self) -> list[Path]:
        """Directories of groups below kubepods with a realtime budget, which the kernel divides among CPUs; only cgroup v1 has them."""
        if not self.strict:
            return []
        budgets = sorted((self._root / "cpu" / self.top.relative_to(self._root / "cpuset")).rglob("cpu.rt_runtime_us"))
        return [file.parent for file in budgets if _has_budget(file)]

    def walk(self, path: str = "") -> Iterator[tuple[str, CpuSet | None]]:
        """A group and all below it with their configured CPUs, parents first; groups that are removed meanwhile are left out."""
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
        """The directory of a group."""
        return self.top / path if path else self.top

    def path_of(self, directory: Path) -> str:
        """The path of the group with this directory."""
        return "" if directory == self.top else str(directory)[len(self._prefix) + 1 :]


def _has_budget(file: Path) -> bool:
    try:
        return int(file.read_text()) != 0
    except OSError as error:
        if error.errno not in GONE:
            raise
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise CgroupError(f"cannot read {path}: {error.strerror}") from error
