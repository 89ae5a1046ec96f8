"""Fabricated cpuset trees that answer like the kernel: EBUSY, EACCES, ENOSPC, EINVAL as cgroup v1 and v2 give them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cmk.isolation.cgroups import FILE, CpusetTree
from cmk.isolation.desired import ancestors
from cmk.isolation.partitions import EXCLUSIVE, ISOLATED, MEMBER, PARTITION
from cmk.model import cpuset
from cmk.model.cgroup_path import parent_of
from cmk.model.cpuset import CpuSet

UID = "0000000{0}-1111-2222-3333-444444444444"


def pod_directory(number: int, qos: str = "", *, systemd: bool = False) -> str:
    """Path of a pod's group below kubepods in the spelling of a cgroup driver."""
    uid = UID.format(number)
    if not systemd:
        return "/".join(part for part in (qos, f"pod{uid}") if part)
    prefix = f"kubepods-{qos}" if qos else "kubepods"
    pod = f"{prefix}-pod{uid.replace('-', '_')}.slice"
    return f"kubepods-{qos}.slice/{pod}" if qos else pod


def container(letter: str, *, systemd: bool = False) -> str:
    """Name of a container's group."""
    return f"cri-containerd-{letter * 64}.scope" if systemd else letter * 64


class Kernel(CpusetTree):
    """A tree of plain files that refuses or changes writes as the kernel would. ``writes`` lists all that were tried.

    Every group counts as populated: none can be emptied. ``die_at``: the number of writes after which the process is killed at the next.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writes: list[tuple[str, str, str]] = []
        self.die_at = -1

    def write_file(self, path: str, name: str, text: str) -> None:
        if len(self.writes) == self.die_at:
            raise Killed
        self.writes.append((path, name, text))
        if not self.directory(path).exists():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if name == FILE:
            self._check(path, cpuset.parse(text))
        if (name, text) == (PARTITION, ISOLATED):
            text = self._partition(path)
        set_text(self.directory(path), name, text)
        self.refresh()

    def refresh(self) -> None:
        """Compute the effective CPUs of all groups from the configured ones."""
        beside = [f"../{entry.name}" for entry in self.top.parent.iterdir() if entry.is_dir() and entry != self.top]
        for path, own in [*((path, self.read(path)) for path in beside), *self.walk()]:
            above = cpuset.parse(self.read_file(".." if not path else parent_of(path), self._effective))
            now = own if self.strict and own is not None else ((own or above) & above) or above
            file, text = self.directory(path) / self._effective, f"{cpuset.kernel_list(now)}\n"
            if not file.exists() or file.read_text() != text:
                file.write_text(text)

    def _check(self, path: str, cpus: CpuSet) -> None:
        above = cpuset.parse(self.read_file(".." if not path else parent_of(path), FILE))
        below = [own or frozenset() for name, own in self.walk(path) if name != path and parent_of(name) == path]
        code = 0
        if not cpus:
            code = errno.ENOSPC
        elif self.strict and not cpus <= above:
            code = errno.EACCES
        elif self.strict and not all(own <= cpus for own in below):
            code = errno.EBUSY
        elif not cpus <= cpuset.parse(self.read_file("..", self._effective)):
            code = errno.EINVAL
        if code:
            raise OSError(code, os.strerror(code))

    def _partition(self, path: str) -> str:
        """The content of the file after a group asked to be a partition: its CPUs must be exclusive to all groups down to it."""
        sets = [cpuset.parse(self.read_file(group, EXCLUSIVE)) for group in [*ancestors(path), path]]
        exclusive = sets[0].intersection(*sets) & (self.read(path) or frozenset())
        return ISOLATED if exclusive else f"{ISOLATED} invalid (Invalid cpu list in {EXCLUSIVE})"

    @property
    def _effective(self) -> str:
        return "cpuset.effective_cpus" if self.strict else "cpuset.cpus.effective"


class Killed(BaseException):
    """The process was killed at a write."""


def set_text(directory: Path, name: str, text: str) -> None:
    """One file of a group."""
    (directory / name).write_text(f"{text}\n")


def make(root: Path, groups: dict[str, str], *, strict: bool, cpus: str, top: str = "kubepods") -> Kernel:
    """A tree with these groups below kubepods (``""``) and the CPUs configured for each."""
    base = root / "cpuset" if strict else root
    base.mkdir(parents=True, exist_ok=True)
    if not strict:
        (root / "cgroup.controllers").write_text("cpuset cpu memory\n")
    set_text(base, FILE, cpus)
    set_text(base, "cpuset.effective_cpus" if strict else "cpuset.cpus.effective", cpus)
    for directory in reversed(Path(top).parents[:-1]):
        add(base / directory, cpus, strict=strict)
    for path in sorted(groups):
        add(base / top / path, groups[path], strict=strict)
    kernel = Kernel(root)
    kernel.refresh()
    return kernel


def add(directory: Path, cpus: str, *, strict: bool) -> None:
    """One more group, as kubelet and runc make them."""
    directory.mkdir(parents=True, exist_ok=True)
    set_text(directory, FILE, cpus)
    set_text(directory, "cpuset.effective_cpus" if strict else "cpuset.cpus.effective", cpus)
    set_text(directory, "cgroup.procs", "")
    if not strict:
        set_text(directory, EXCLUSIVE, "")
        set_text(directory, PARTITION, MEMBER)


def snapshot(root: Path) -> dict[str, str]:
    """Every file below a root: path → content."""
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}
