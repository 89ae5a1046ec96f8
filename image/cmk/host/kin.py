"""Whether a process outside pods descends from one that may have ended: no container separates a task's processes from the host's there.

The kernel tells no more of a process whose parent has ended: it has a new parent, which is an ancestor of the old one, or the init of its
pid namespace.
"""

from __future__ import annotations

from cmk.host.procfs import Procfs
from cmk.model.tasks import Origin, Process


class Kin:
    """The descendants of an origin's first process, and what other descendants of its ancestors have left since it was started.

    For one search: each process is looked at once, however many descend from it.
    """

    def __init__(self, procfs: Procfs, origin: Origin) -> None:
        self._procfs = procfs
        self._origin = origin
        self._is_kin: dict[Process, bool] = {origin.first: True}

    def includes(self, pid: int) -> bool:
        """Whether a process is the first one, descends from it, or may do so for all the kernel tells. Raises ProcessLookupError."""
        process = self._procfs.process(pid)
        if process in self._origin.ancestors:
            return False
        line: list[Process] = []
        is_kin = self._is_kin.get(process)
        while is_kin is None:
            line.append(process)
            if process.start < self._origin.first.start or process in self._origin.ancestors:
                is_kin = process in self._origin.ancestors or self._procfs.is_namespace_init(process.pid)
            elif above := self._procfs.parent(process.pid):
                process = self._procfs.process(above)
                is_kin = self._is_kin.get(process)
            else:
                is_kin = False  # init of the host, or the kernel's own
        self._is_kin.update(dict.fromkeys(line, is_kin))
        return is_kin
