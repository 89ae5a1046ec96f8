"""The cpusets of pods, enforced while pods come and go and other programs write them.

The only writer of cpusets below kubepods. Events of the kernel lead; a full pass now and then catches changes without an event.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping, Sequence, Set

from cmk.host.containers import GONE
from cmk.host.inotify import WRITTEN, DirectoryWatch
from cmk.isolation import desired
from cmk.isolation.cgroups import FILE, CpusetTree
from cmk.isolation.desired import CpusetWrite, Groups
from cmk.model import cpuset
from cmk.model.cgroup_path import PodContainer, container_of, top_down
from cmk.model.cpuset import CpuSet

log = logging.getLogger(__name__)

# Pods come and go while their cpusets are written: after a write that failed the tree is read again, this many times.
ROUNDS = 8
SECONDS_BETWEEN_PASSES = 30.0
SECONDS_BETWEEN_PASSES_WITHOUT_WATCHES = 1.0


class PodCpusets:
    """Enforces the cpusets that ``wanted_for`` asks for, given the existing groups; it also says for which these may be others than before.

    ``drift``: how many cpusets another program changed that were put right. ``problem``: why some are not as they should be. ``unwatched``:
    why changes are noticed late. ``report_changed`` is called when ``drift`` or ``problem`` has changed.
    """

    def __init__(
        self,
        tree: CpusetTree,
        wanted_for: Callable[[Groups], tuple[Mapping[str, CpuSet], Set[str]]],
        report_changed: Callable[[], None],
        children: Callable[[], Mapping[str, Sequence[str]] | None] = lambda: None,
    ) -> None:
        self._tree = tree
        self._wanted_for = wanted_for
        self._children = children
        self._report_changed = report_changed
        self._watch: DirectoryWatch | None = None
        self._groups: dict[str, CpuSet | None] = {}
        self._enforced: Mapping[str, CpuSet] = {}
        # Groups that were read since they were compared with what they should be.
        self._unsure: set[str] = set()
        self._next_pass: asyncio.TimerHandle | None = None
        self.problem = self.unwatched = ""
        self.drift = 0

    def start(self, *, resumed: bool) -> None:
        """Enforce the wanted cpusets, now and from now on. ``resumed``: an earlier agent enforced them, so that differences are drift."""
        self._watch = DirectoryWatch(WRITTEN)
        self.scan()
        if resumed:
            wanted = self._wanted_for(self._groups)[0]
            self.drift = sum(bool(cpus) and cpus != wanted.get(path, cpus) for path, cpus in self._groups.items())
            if self.drift:
                log.info("%d cpusets of pods are not as they should be: putting them right", self.drift)
        self.enforce()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fileno(), self._on_event)
        self._next_pass = loop.call_later(self._seconds_to_next_pass, self._on_pass)

    def stop(self) -> None:
        """Stop enforcing, and leave all cpusets as they are."""
        if self._next_pass is not None:
            self._next_pass.cancel()
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def scan(self) -> None:
        """Read the whole tree."""
        self._scan("")

    def enforce(self) -> None:
        """Write the cpusets that differ from the wanted ones, and read them back: on return no group can use a CPU that it has to leave."""
        self._read_events()
        self._enforce()

    def restore(self, own: Groups, universe: CpuSet) -> None:
        """Give every group its original CPUs, and stop. Needs no ``start``.

        ``own``: the CPUs that groups had. ``universe``: those that kubepods had.
        """
        self.stop()
        strict = self._tree.strict
        for _ in range(ROUNDS):
            self._groups = dict(self._tree.walk())
            wanted = desired.original_cpusets(self._groups, own, universe, strict=strict)
            if strict:
                writes = desired.ordered_writes(self._groups, {path: cpus for path, cpus in wanted.items() if cpus}, strict=True)
            else:
                writes = [CpusetWrite(path, wanted[path]) for path in top_down(wanted) if self._groups[path] != wanted[path]]
            self.problem = ""
            for write in writes:
                self.problem = self._restore(write) or self.problem
            if not self.problem:
                break
        if self.problem:
            log.error("cpusets of pods are not restored: %s", self.problem)

    @property
    def groups(self) -> Groups:
        """The groups below kubepods with the CPUs configured for each."""
        return self._groups

    def pids_in(self, container: PodContainer) -> list[int]:
        """Processes of a container."""
        pids: list[int] = []
        for path in self._groups:
            if container_of(path) == container:
                try:
                    pids += [int(pid) for pid in self._tree.read_file(path, "cgroup.procs").split()]
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        return pids

    @property
    def _seconds_to_next_pass(self) -> float:
        return SECONDS_BETWEEN_PASSES_WITHOUT_WATCHES if self.unwatched else SECONDS_BETWEEN_PASSES

    def _enforce(self) -> None:
        problem = ""
        for _ in range(ROUNDS):
            wanted, changed = self._wanted_for(self._groups)
            self._unsure |= changed
            unsure = {path: wanted[path] for path in self._unsure if path in wanted and path in self._groups}
            writes = desired.ordered_writes(self._groups, unsure, strict=self._tree.strict, children=self._children())
            self._enforced = wanted
            problem = ""
            if not writes:
                break
            for write in writes:
                problem = self._write(write.path, write.cpus) or problem
            if not problem:
                break
            self._scan("")
        if not problem:
            self._unsure.clear()
        if problem != self.problem:
            self.problem = problem
            (log.error if problem else log.info)("cpusets of pods: %s", problem or "as they should be again")
            self._report_changed()

    def _write(self, path: str, cpus: CpuSet | None) -> str:
        """Write and read back; returns an error message, or ``""``."""
        file, text = f"{self._tree.directory(path)}/{FILE}", cpuset.kernel_list(cpus or ())
        try:
            self._tree.write(path, cpus)
            self._groups[path] = now = self._tree.read(path)
        except OSError as error:
            if error.errno in GONE:
                self._forget(path)
                return ""
            return f"{file}: {text} refused: {error.strerror}"
        return "" if now == cpus else f"{file}: {text} became {cpuset.kernel_list(now or ())}"

    def _restore(self, write: CpusetWrite) -> str:
        """Write a group's original CPUs; returns an error message, or ``""``."""
        if write.cpus is not None:
            return self._write(write.path, write.cpus)
        try:
            self._tree.restore(write.path, None)
        except OSError as error:
            return "" if error.errno in GONE else f"{self._tree.directory(write.path)}/{FILE}: {error.strerror}"
        return ""

    def _on_event(self) -> None:
        if self._read_events():
            self._enforce()

    def _on_pass(self) -> None:
        self._next_pass = asyncio.get_running_loop().call_later(self._seconds_to_next_pass, self._on_pass)
        self._scan("")
        self.enforce()

    def _read_events(self) -> bool:
        """Read again the groups with an event; returns whether any has changed."""
        changed = False
        if self._watch is None:
            return changed
        for path, is_directory in self._watch.read().items():
            if path.name == FILE:
                changed |= self._read_group(self._tree.path_of(path.parent))
            elif is_directory:
                changed |= self._scan(self._tree.path_of(path))
        if self._watch.overflowed:
            changed |= self._scan("")
        return changed

    def _read_group(self, group: str) -> bool:
        try:
            now = self._tree.read(group)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._forget(group)
            return False
        return self._record(group, now)

    def _record(self, group: str, now: CpuSet | None) -> bool:
        """Record the CPUs of a group; returns whether they, or the group, are new."""
        before = self._groups.get(group, now)
        known = group in self._groups
        self._groups[group] = now
        self._unsure.add(group)
        if known and now != before and self._enforced.get(group) == before:
            self.drift += 1
            log.info(
                "cpuset of %s was changed to %s: putting it right",
                group or "kubepods",
                cpuset.kernel_list(now or ()) or "nothing",
            )
            self._report_changed()
        return not known or now != before

    def _scan(self, group: str) -> bool:
        """Read a group and all below it; returns whether any has changed. A new group is watched before its children are listed, so that
        none of them is missed.
        """
        changed = False
        for path in [path for path in self._groups if path == group or path.startswith(f"{group}/") or not group]:
            if not self._tree.directory(path).exists():
                self._forget(path)
        for path, cpus in self._tree.walk(group):
            if path not in self._groups:
                self._watch_group(path)
            changed |= self._record(path, cpus)
        return changed

    def _watch_group(self, path: str) -> None:
        if self._watch is None:
            return
        try:
            self._watch.add(self._tree.directory(path))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                seconds = SECONDS_BETWEEN_PASSES_WITHOUT_WATCHES
                self.unwatched = f"changes are seen after {seconds:.0f} s: raise fs.inotify.max_user_watches ({error.strerror})"
            elif error.errno not in GONE:
                raise

    def _forget(self, group: str) -> None:
        for path in [path for path in self._groups if path == group or path.startswith(f"{group}/")]:
            del self._groups[path]
            self._unsure.discard(path)
