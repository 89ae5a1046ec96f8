"""Keeps everybody off cores that are not theirs: the cpusets of pods as they should be, whoever comes, goes or writes there.

The only writer of cpusets below kubepods. Events lead; a full pass now and then catches what an event did not tell.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Mapping

from cmk.host.inotify import WRITTEN, DirectoryWatch
from cmk.isolation import desired
from cmk.isolation.cgroups import FILE, GONE, Cpusets
from cmk.isolation.desired import Hold, Rules, Write
from cmk.model import cgroup_path, cpuset
from cmk.model.cgroup_path import PodContainer
from cmk.model.cpuset import CpuSet

log = logging.getLogger(__name__)

# The tree changes under our hands: what one round could not write is looked at again.
ROUNDS = 8
SECONDS_BETWEEN_PASSES = 30.0
# Without watches passes are all there is.
SECONDS_BLIND = 1.0


class Keepout:
    """``rules`` and ``holds`` tell what should be, at each moment; ``changed`` is called when ``problem`` or ``drift`` changed.

    ``drift`` counts sets that somebody else changed and we put right; ``blind`` says why changes are not told at once.
    """

    def __init__(
        self, cpusets: Cpusets, rules: Callable[[], Rules], holds: Callable[[], list[Hold]], changed: Callable[[], None]
    ) -> None:
        self._cpusets = cpusets
        self._rules = rules
        self._holds = holds
        self._changed = changed
        self._watch: DirectoryWatch | None = None
        self._groups: dict[str, CpuSet | None] = {}
        self._settled: dict[str, CpuSet] = {}
        self._pass: asyncio.TimerHandle | None = None
        self.problem = self.blind = ""
        self.drift = 0

    def start(self, *, again: bool) -> None:
        """Bring every group to where it should be and keep it there. ``again``: an agent before us had done so."""
        self._watch = DirectoryWatch(WRITTEN)
        self.look()
        if again:
            wanted = desired.desired(self._groups, self._rules(), self._holds())
            self.drift = sum(bool(cpus) and cpus != wanted.get(path, cpus) for path, cpus in self._groups.items())
            if self.drift:
                log.info("%d cpusets of pods are not as they should be: putting them right", self.drift)
        self.settle()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fileno(), self._on_event)
        self._pass = loop.call_later(self._pace, self._on_pass)

    def stop(self) -> None:
        """Leave everything as it is."""
        if self._pass is not None:
            self._pass.cancel()
        if self._watch is not None:
            asyncio.get_running_loop().remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def look(self) -> None:
        """Learn what is there."""
        self._scan("")

    def settle(self) -> None:
        """Write what differs from what should be, and read it back: who loses a core has lost it when this returns."""
        self._take_events()
        self._settle()

    def undo(self, own: Mapping[str, CpuSet | None], universe: CpuSet) -> None:
        """Give every group its own set back; needs no start, and ends the watch."""
        self.stop()
        strict = self._cpusets.strict
        for _ in range(ROUNDS):
            self._groups = dict(self._cpusets.walk())
            wanted = desired.restored(self._groups, own, universe, strict=strict)
            if strict:
                todo = desired.writes(self._groups, {path: cpus for path, cpus in wanted.items() if cpus}, strict=True)
            else:
                todo = [Write(path, wanted[path]) for path in cgroup_path.top_down(wanted) if self._groups[path] != wanted[path]]
            self.problem = ""
            for write in todo:
                self.problem = self._give_back(write) or self.problem
            if not self.problem:
                break
        if self.problem:
            log.error("cpusets of pods, given back: %s", self.problem)

    def _give_back(self, write: Write) -> str:
        if write.cpus is not None:
            return self._write(write.path, write.cpus)
        try:
            self._cpusets.give_back(write.path, None)
        except OSError as error:
            return "" if error.errno in GONE else f"{self._cpusets.directory(write.path)}/{FILE}: {error.strerror}"
        return ""

    @property
    def groups(self) -> Mapping[str, CpuSet | None]:
        """What there is below kubepods, and what each has."""
        return self._groups

    def pids_in(self, place: PodContainer) -> list[int]:
        """Processes of a container."""
        found: list[int] = []
        for path in self._groups:
            if cgroup_path.container_of(path) == place:
                try:
                    found += [int(pid) for pid in self._cpusets.text(path, "cgroup.procs").split()]
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        return found

    @property
    def _pace(self) -> float:
        return SECONDS_BLIND if self.blind else SECONDS_BETWEEN_PASSES

    def _settle(self) -> None:
        problem = ""
        for _ in range(ROUNDS):
            wanted = desired.desired(self._groups, self._rules(), self._holds())
            todo = desired.writes(self._groups, wanted, strict=self._cpusets.strict)
            self._settled = wanted
            problem = ""
            if not todo:
                break
            for write in todo:
                problem = self._write(write.path, write.cpus) or problem
            if not problem:
                break
            self._scan("")
        if problem != self.problem:
            self.problem = problem
            (log.error if problem else log.info)("cpusets of pods: %s", problem or "as they should be again")
            self._changed()

    def _write(self, path: str, cpus: CpuSet | None) -> str:
        """Write and read back; returns what went wrong."""
        try:
            self._cpusets.write(path, cpus)
            self._groups[path] = got = self._cpusets.read(path)
        except OSError as error:
            if error.errno in GONE:
                self._forget(path)
                return ""
            return f"{self._cpusets.directory(path)}/{FILE}: {cpuset.kernel_list(cpus or ())} refused: {error.strerror}"
        if got != cpus:
            return (
                f"{self._cpusets.directory(path)}/{FILE}: {cpuset.kernel_list(cpus or ())} became {cpuset.kernel_list(got or ())}"
            )
        return ""

    def _on_event(self) -> None:
        if self._take_events():
            self._settle()

    def _on_pass(self) -> None:
        self._pass = asyncio.get_running_loop().call_later(self._pace, self._on_pass)
        self._scan("")
        self.settle()

    def _take_events(self) -> bool:
        """Bring what we know up to date; returns whether there was anything new."""
        news = False
        if self._watch is None:
            return news
        for path, is_directory in self._watch.read().items():
            if path.name == FILE:
                news |= self._look(self._cpusets.name_of(path.parent))
            elif is_directory:
                news |= self._scan(self._cpusets.name_of(path))
        if self._watch.overflowed:
            news |= self._scan("")
        return news

    def _look(self, group: str) -> bool:
        try:
            now = self._cpusets.read(group)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self._forget(group)
            return False
        return self._note(group, now)

    def _note(self, group: str, now: CpuSet | None) -> bool:
        before = self._groups.get(group, now)
        known = group in self._groups
        self._groups[group] = now
        if known and now != before and self._settled.get(group) == before:
            self.drift += 1
            log.info(
                "cpuset of %s was changed to %s: putting it right",
                group or "kubepods",
                cpuset.kernel_list(now or ()) or "nothing",
            )
            self._changed()
        return not known or now != before

    def _scan(self, group: str) -> bool:
        """Look at a group and all below it. A new one is watched before it is listed: nothing slips in between."""
        news = False
        for path in [path for path in self._groups if path == group or path.startswith(f"{group}/") or not group]:
            if not self._cpusets.directory(path).exists():
                self._forget(path)
        for path, cpus in self._cpusets.walk(group):
            if path not in self._groups:
                self._add(path)
            news |= self._note(path, cpus)
        return news

    def _add(self, path: str) -> None:
        if self._watch is None:
            return
        try:
            self._watch.add(self._cpusets.directory(path))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                self.blind = f"changes are seen after {SECONDS_BLIND:.0f} s: raise fs.inotify.max_user_watches ({error.strerror})"
            elif error.errno not in GONE:
                raise

    def _forget(self, group: str) -> None:
        for path in [path for path in self._groups if path == group or path.startswith(f"{group}/")]:
            del self._groups[path]
            self._settled.pop(path, None)
