"""Layout and tasks of one host without an agent: the file ``pools.json`` of a directory, read and changed under the directory's lock.

``cmk.isolate.local`` allocates in the same file; its docstring has the schema, and says what the files beside it are for. A change of pools
is under way as long as ``pools.json`` has moves: they are written before the journal and end with the rename that writes the outcome, so
that a journal without moves is left over. The next command undoes a change that was interrupted, and does not finish it: meanwhile
``cmk isolate`` may have allocated lists of the old layout.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import msgspec

from cmk.host import state
from cmk.host.journal import ChangeError, JournaledChange
from cmk.host.members import Search
from cmk.host.notify import Notifier
from cmk.host.pauses import Pausing
from cmk.host.procfs import Procfs
from cmk.isolate import family, local
from cmk.isolate.say import Failure
from cmk.legacy import tree
from cmk.legacy.takeover import TakenOver
from cmk.model import cpuset
from cmk.model.choice import Refused, comma_list
from cmk.model.cpuset import CpuSet
from cmk.model.layout import Layout, SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.order import ordered_steps
from cmk.model.plan import Plan, cpus_of, plan
from cmk.model.tasks import Process, Task

JOURNAL = "journal.json"
_FILES = (f"{JOURNAL}.old", JOURNAL, local.LAYOUT, local.BOOT, local.STATE)  # the last one tells that there are pools


class HostTask(Task, frozen=True):
    """A task of direct mode: ``parent`` is the pid of its first process's parent, ``left_by`` the process that had its lists before it."""

    parent: int = 0
    left_by: Process | None = None


class PoolsFile(msgspec.Struct, frozen=True):
    """The whole ``pools.json``, so that a change of layout and tasks is one rename.

    ``boot`` is the boot id under which the tasks were started. ``moving`` maps the pids of tasks to the lists that a change which has not
    ended was to give them, and to the CPUs on which it was to park them. ``pidns`` is the pid namespace of all pids.
    """

    saved: SavedLayout
    boot: str
    tasks: list[HostTask] = []
    moving: dict[str, tuple[str, ...]] = {}
    pidns: str = ""


class LayoutFile(msgspec.Struct, frozen=True):
    """The whole ``layout.json``."""

    saved: SavedLayout


class ConfDir:
    """The directory that ``--conf-dir`` names. Methods raise StateError; callers that change anything hold ``cmk.isolate.lock.Lock``."""

    def __init__(self, path: Path, procfs: Procfs) -> None:
        self.path = path
        self._procfs = procfs

    def saved(self) -> SavedLayout | None:
        """The layout, or None before ``cmk init``."""
        content = self._read()
        return content.saved if content else None

    def ledger(self, saved: SavedLayout) -> tuple[Ledger, list[Task]]:
        """A ledger of the running tasks on a layout, and the tasks that have ended or whose lists the layout lacks.

        The task of a process that has ended is that of the oldest process of its family which runs on its exclusive cores.
        """
        content = self._read()
        ledger = Ledger(saved.layout, require_grant=False)
        if content is None:
            return ledger, []
        running, ended = self._running(content)
        return ledger, ended + [task for task in running if not ledger.restore(task)]

    def save(self, saved: SavedLayout, ledger: Ledger, moving: dict[str, tuple[str, ...]] | None = None) -> None:
        """Write layout and tasks, durably."""
        tasks = [HostTask(**msgspec.structs.asdict(task)) for task in ledger.tasks.values()]
        pidns = self._host.namespace if tasks else ""
        boot = self._procfs.boot_id()
        self._keep(saved)
        self._write(local.STATE, local.seal(msgspec.json.encode(PoolsFile(saved, boot, tasks, moving or {}, pidns))))
        self._write(local.BOOT, f"{boot}\n".encode())

    def create(self, saved: SavedLayout) -> None:
        """Write a layout without tasks."""
        self._change().forget()  # of pools that somebody has moved away
        self.save(saved, Ledger(saved.layout))

    def take_over(self, old: TakenOver, saved: SavedLayout) -> tuple[Ledger, list[str], Path | None]:
        """Write the layout of an older CMK and its running tasks.

        Returns the ledger, why each dropped task was dropped, and the path to which an old tree was renamed, if there was one.
        """
        tasks, dropped = tree.living_tasks(old, self._procfs)
        ledger = Ledger(saved.layout, require_grant=False)
        for task in tasks:
            if not ledger.restore(task):
                dropped.append(f"process {task.process.pid} of pool {task.pool}: its list has another owner")
        self._change().forget()
        self.save(saved, ledger)
        return ledger, dropped, self.set_aside()

    def set_aside(self) -> Path | None:
        """Rename the tree of an older CMK that has been taken over; returns its new path, None if there is none."""
        try:
            return tree.set_aside(self.path) if tree.exists(self.path) else None
        except OSError as error:
            raise state.StateError(f"cannot set {self.path / tree.POOLS} aside: {error.strerror}") from error

    def recover(self, saved: SavedLayout) -> Ledger:
        """Undo an interrupted change: every task moves back to the lists it has in the file. Returns the ledger of running tasks."""
        content = self._read()
        ledger, _ = self.ledger(saved)
        change = self._change()
        if content and content.moving and content.boot == self._procfs.boot_id():
            if not change.undo_interrupted(list(ledger.tasks.values())):
                self.save(saved, ledger)  # killed before the journal was written: nobody has moved
        elif content:
            self._keep(content.saved)
        change.forget()
        Notifier([self.path], self._procfs).write_all(ledger)
        return ledger

    def rebuild(self) -> tuple[SavedLayout, Ledger] | None:
        """Make a damaged ``pools.json`` anew from the layout and from the processes that are confined to exclusive cores.

        Returns them; None when the layout is lost as well.
        """
        content = self._kept()
        if content is None:
            return None
        ledger = Ledger(content.saved.layout, require_grant=False)
        for pool in (pool for pool in content.saved.layout.pools.values() if pool.exclusive):
            (found,), _ = family.find(str(self._procfs.root), True, [(pool.cpus, {"pid": 0, "start": 0}, 0)], {})
            # Who has the variables of cmk isolate comes before whom somebody else may have pinned there.
            for relative in sorted(found, key=lambda each: not _was_isolated(self._procfs.root / str(each.process["pid"]))):
                lists = tuple(item.name for item in pool.lists if item.cpus & relative.cpus)
                ledger.restore(HostTask(Process(**relative.process), pool.name, lists, cores=len(lists)))
        self._change().forget()
        self.save(content.saved, ledger)
        return content.saved, ledger

    def move(self, ledger: Ledger, now: SavedLayout, saved: SavedLayout) -> Plan:
        """Move the tasks of a ledger from the layout ``now`` to the layout ``saved``; returns the plan of the moves.

        Raises Refused, NoRoomError or ChangeError, with everything as it was. If this process is killed meanwhile, the old and the new
        lists of every moving task stay taken until ``recover``.
        """
        moves = plan(now.layout, saved.layout, ledger.tasks.values())
        if moves.refusals:
            raise Refused("; ".join(refusal.text for refusal in moves.refusals), final=True)
        self._refuse_strangers(moves, now.layout)
        steps = ordered_steps(moves, now.layout, saved.layout)  # before anything is written: there may be no order
        parked = {step.process: comma_list(step.cpus) for step in steps if not step.last}
        moving = {
            str(move.task.process.pid): move.lists + tuple(filter(None, [parked.get(move.task.process)])) for move in moves.moves
        }
        self.save(now, ledger, moving)
        change = self._change()
        try:
            started = change.start(now, saved, moves)
        except state.StateError:
            self.save(now, ledger)
            change.forget()
            raise
        try:
            change.finish(started)
        except ChangeError as error:
            raise ChangeError(f"{error}; nothing was changed") from error
        notifier, moved = Notifier([self.path], self._procfs), self.ledger(saved)[0]
        notifier.write_all(moved)
        for move in moves.moves:
            notifier.signal_task(move.after)
        return moves

    def remove(self) -> None:
        """Remove the files of direct mode, and the directory if nothing else is in it."""
        Notifier([self.path], self._procfs).remove_all()
        for name in (*_FILES, local.LOCK):
            (self.path / f".{name}.new").unlink(missing_ok=True)
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    @cached_property
    def _host(self) -> local.ProcessTable:
        return local.ProcessTable(str(self._procfs.root))

    def _change(self) -> JournaledChange:
        return JournaledChange(self.path / JOURNAL, self._save_change, self._procfs, self._find_family)

    def _running(self, content: PoolsFile) -> tuple[list[HostTask], list[Task]]:
        """The tasks that run, and those that have ended."""
        if not content.tasks or content.boot != self._procfs.boot_id():
            return [], list(content.tasks)
        if not self._host.can_see({"tasks": content.tasks, "pidns": content.pidns}):
            return [], list(content.tasks)
        running, ended, wanted = [], [], []
        for task in content.tasks:
            if self._host.is_running(msgspec.structs.asdict(task.process)):
                running.append(task)
            elif content.saved.layout.pools[task.pool].exclusive:
                wanted.append(task)
            else:
                ended.append(task)
        asked = [(_cpus(content, task), msgspec.to_builtins(task)) for task in wanted]
        others = {task.process.pid: _cpus(content, task) for task in running}
        heirs = family.heirs(str(self._procfs.root), self._host.has_own_numbers, asked, others)
        for task, heir in zip(wanted, heirs, strict=True):
            if heir:
                running.append(msgspec.convert(heir, HostTask))
            else:
                ended.append(task)
        return running, list(ended)

    def _find_family(self, task: Task, cpus: CpuSet) -> Pausing[Search]:
        yield  # nobody else is served in direct mode
        return self._family(task, cpus)

    def _family(self, task: Task, cpus: CpuSet, *, surely: bool = True) -> Search:
        """Processes of a task that run on nothing but ``cpus``, whoever is their parent by now."""
        first, parent = family.origin(msgspec.to_builtins(task))
        (found,), is_certain = family.find(str(self._procfs.root), True, [(cpus, first, parent)], {}, surely=surely)
        return Search([Process(**relative.process) for relative in found], is_certain)

    def _refuse_strangers(self, moves: Plan, layout: Layout) -> None:
        """Raise Refused if it cannot be told whether a process has to move with a task: it may be pinned to its cores by somebody else."""
        for move in moves.moves:
            if layout.pools[move.task.pool].exclusive:
                asked = self._family(move.task, move.old, surely=False).members
                known = self._family(move.task, move.old).members  # later: what the task has started meanwhile is no stranger
                for process in asked:
                    if process not in known and self._procfs.is_alive(process):
                        raise Refused(
                            f"process {process.pid} runs on CPUs {cpuset.kernel_list(move.old)} of process {move.task.process.pid}, "
                            f"and nothing tells whose it is: end it, or give it other CPUs",
                            final=True,
                        )

    def _read(self) -> PoolsFile | None:
        if not local.serves(str(self.path)):
            return None
        try:
            return msgspec.convert(local.read_state(str(self.path), self._procfs.boot_id()), PoolsFile)
        except Failure as failure:
            raise state.StateError(str(failure)) from failure
        except msgspec.ValidationError as error:
            raise state.StateError(str(local.unusable(str(self.path / local.STATE), str(error)))) from error

    def _kept(self) -> LayoutFile | None:
        """The content of ``layout.json``; None if it is missing or damaged."""
        try:
            return msgspec.convert(local.read_sealed(str(self.path / local.LAYOUT)), LayoutFile)
        except (Failure, msgspec.ValidationError):
            return None

    def _keep(self, saved: SavedLayout) -> None:
        """Write ``layout.json`` unless it has this layout."""
        if self._kept() != (content := LayoutFile(saved)):
            self._write(local.LAYOUT, local.seal(msgspec.json.encode(content)))

    def _write(self, name: str, content: bytes) -> None:
        try:
            local.write(str(self.path / name), content, durable=True)
        except Failure as failure:
            raise state.StateError(str(failure)) from failure

    def _save_change(self, saved: SavedLayout, tasks: list[Task]) -> None:
        """Write what a change has led to; if it leads back to the layout of the file, the tasks of the file are the right ones."""
        content = self._read()
        if content is not None and content.saved == saved:
            self.save(saved, self.ledger(saved)[0])
        else:
            self.save(saved, Ledger(saved.layout, tasks, require_grant=False))


def _was_isolated(directory: Path) -> bool:
    """Whether a process has inherited the variables of ``cmk isolate``, by its directory in procfs."""
    try:
        return b"CMK_CPUS_ASSIGNED=" in (directory / "environ").read_bytes()
    except OSError:
        return False  # it has ended, or is another user's


def _cpus(content: PoolsFile, task: Task) -> CpuSet:
    """CPUs that a task has, and those to which an interrupted change was about to move it."""
    moving = content.moving.get(str(task.process.pid), ())
    return cpus_of(content.saved.layout, task) | frozenset(int(cpu) for name in moving for cpu in name.split(","))
