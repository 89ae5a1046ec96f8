"""Pods without a kubelet: cgroups in which programs of a benchmark are to the agent what those of pods are."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

HIERARCHIES = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))


class Pods:
    """Pods that are cgroups with the paths that kubelet gives them, and with the same share of the CPUs each, below ``root``."""

    def __init__(self) -> None:
        root = next(path for path in HIERARCHIES if (path / "cgroup.procs").exists())
        self.root = root / f"cmk-bench-{os.getpid()}"

    def start(self, number: int, command: list[str], **options: object) -> subprocess.Popen[str]:
        """Start a program in a pod."""
        group = self.root / f"kubepods/pod{number:08x}-0000-4000-8000-000000000000/{number:064x}"
        group.mkdir(parents=True, exist_ok=True)
        line = ["sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$@"', "sh", *command]
        return subprocess.Popen(line, text=True, **options)

    def remove(self) -> None:
        """Remove the cgroups, whose processes have ended."""
        for path, _, _ in os.walk(self.root, topdown=False):
            Path(path).rmdir()
