"""Whether a process outside pods descends from one that may have ended: no container separates a task's processes from the host's there.

The kernel tells no more of a process whose parent has ended: it has a new parent, which is an ancestor of the old one.
"""

from __future__ import annotations

from cmk.host.procfs import Procfs
from cmk.model.tasks import Origin


class Kin:
    """The descendants of an origin's first process, and what other descendants of its ancestors have left since it was started."""

    def __init__(self, procfs: Procfs, origin: Origin) -> None:
        self._procfs = procfs
        self._origin = origin

    def includes(self, pid: int) -> bool:
        """Whether a process is the first one, descends from it, or may do so for all the kernel tells. Raises ProcessLookupError."""
        process = self._procfs.process(pid)
        if process in self._origin.ancestors:
            return False
        while process.start >= self._origin.first.start and process not in self._origin.ancestors:
            if process == self._origin.first:
                return True
            above = self._procfs.parent(process.pid)
            if not above:
                return False  # init of the host, or the kernel's own
            process = self._procfs.process(above)
        return process in self._origin.ancestors
