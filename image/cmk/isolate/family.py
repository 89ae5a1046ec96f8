"""Whoever an owner leaves behind: processes that run on its CPUs when it has ended; and tasks of other pid namespaces. For direct mode.

An owner's family are the processes that it has started, directly or not. They inherit its CPU mask, and the kernel tells no more of a
child whose parent has ended: such a child has a new parent, which is an ancestor of the owner. So a process counts as family that has
a thread on nothing but the owner's CPUs, was started after it, and has no older ancestor that cannot be one of the owner's. It may have
been pinned there by somebody else from the same session; a process of another session, and a thread of the kernel, does not count.
"""

import posix

from cmk.isolate.say import LATER, NEVER, Failure, program

_INITIAL = "pid:[4026531836]"  # PROC_PID_INIT_INO: the same on every kernel
_KERNEL_THREAD = 0x00200000  # PF_KTHREAD
_EXITING = 0x4  # PF_EXITING
_RUNS, _ENDS = "runs", "ends"
_SCANS = 50
_NOTHING: frozenset[int] = frozenset()
_ENDED = (FileNotFoundError, ProcessLookupError)


class Relative:
    """A process of a family, and the CPUs to which threads of it are confined."""

    def __init__(self, process: dict[str, int], cpus: set[int]) -> None:
        self.process = process
        self.cpus = cpus


def heirs(procfs: str, own_numbers: bool, wanted: list, others: dict) -> list:  # type: ignore[type-arg]
    """For each ended task, with its CPUs: the same task as the oldest process of its family has it, or None.

    It stays that of the process that has ended if none of its family is without a task, or if processes end so fast that it cannot be told.
    """
    asked = [(cpus, *origin(task)) for cpus, task in wanted]
    families, is_certain = find(procfs, own_numbers, asked, others, one_of_each=True)
    passed_on, taken = [], set(others)
    for (_, task), relatives in zip(wanted, families, strict=True):
        free = [relative.process for relative in relatives if relative.process["pid"] not in taken]
        is_over = is_certain and not relatives
        heir = free[0] if free else task["process"]
        taken.add(heir["pid"])
        passed_on.append(None if is_over else _passed_on(task, heir))
    return passed_on


def origin(task: dict) -> tuple[dict, int]:  # type: ignore[type-arg]
    """First process of a task's family, and the pid of its parent; 0 if an older version has not written it."""
    return task.get("left_by") or task["process"], task.get("parent", 0)


def find(
    procfs: str,
    own_numbers: bool,
    wanted: list,  # type: ignore[type-arg]
    others: dict,  # type: ignore[type-arg]
    *,
    surely: bool = False,
    one_of_each: bool = False,
) -> tuple[list[list[Relative]], bool]:
    """For each (CPUs, first process, its parent's pid): the processes of the family, the oldest first. Raises Failure.

    The second value is False if there may be more: processes kept ending before they were looked at, or ``one_of_each`` is enough.

    ``others``: CPUs of tasks by the pids of their first processes; who descends from one and is confined to its CPUs is of its family. One
    with no CPUs does not count. ``own_numbers``: pids in procfs are those of this process's pid namespace. If the first process's parent
    has ended, its ancestors are not known, and whoever may be of the family for all one knows is among them, or, with ``surely``, is not.
    """
    found: list[dict[int, Relative]] = [{} for _ in wanted]
    seen: set[str] = set()
    vanished = True
    for _ in range(_SCANS):
        vanished = _scan(procfs, own_numbers, wanted, others, surely, found, seen)
        # A process that ended during the scan may have started another one that the list of processes lacked.
        if not vanished or (one_of_each and all(found)):
            break
    return [sorted(each.values(), key=_age) for each in found], not vanished


def with_leftovers(failure: Failure, left: list) -> Failure:  # type: ignore[type-arg]
    """A refusal that names the processes whose owners have ended, lest somebody look in vain for what keeps a core."""
    named = ", ".join(
        f"{' '.join(task['lists'])} by "
        + ("processes" if task["process"] == task["left_by"] else f"process {task['process']['pid']},")
        + f" left by process {task['left_by']['pid']}"
        for task in left[:8]
    )
    return Failure(
        failure.code, f"{failure}; in use after the end of their owners (or by whom somebody has pinned there): {named}"
    )


def check_ended(procfs: str, own: str, namespace: str) -> None:
    """Raise Failure unless all processes of another pid namespace have ended for sure, which root of the initial namespace can see."""
    if own == _INITIAL and _is_empty(procfs, namespace):
        return
    raise Failure(
        NEVER,
        f"these pools have tasks of another pid namespace, {namespace} (here is {own}): share that one (--pid=host), use another "
        f"--conf-dir, or, when they have ended, run {program()} reconcile as root on the host",
    )


def outer_namespace(procfs: str) -> str:
    """Name of the pid namespace whose procfs this process sees without being in it; raises Failure."""
    try:
        if int(_stat(procfs, 2)[6]) & _KERNEL_THREAD:  # kthreadd
            return _INITIAL
        return posix.readlink(f"{procfs}/1/ns/pid")
    except OSError as error:
        text = f"cannot tell the pid namespace of {procfs}: {error.strerror}; share it (--pid=host)"
        raise Failure(NEVER, text) from None


def exists(pid: int, own_numbers: bool) -> bool:
    """Whether there is a process with a pid of which procfs shows nothing."""
    if not own_numbers:
        return True  # the kernel cannot be asked
    try:
        posix.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _passed_on(task: dict, heir: dict[str, int]) -> dict:  # type: ignore[type-arg]
    how = "pinned" if task["on_move"]["how"] == "pinned" else "follow"  # the heir may not know the signal
    return {**task, "process": heir, "on_move": {"how": how, "signal": 0}, "left_by": origin(task)[0]}


def _is_empty(procfs: str, namespace: str) -> bool:
    for name in posix.listdir(procfs):
        if name.isdigit():
            try:
                if posix.readlink(f"{procfs}/{name}/ns/pid") == namespace:
                    return False
            except _ENDED:
                continue
            except OSError:
                return False  # another user's: it may be of that namespace
    return True


def _scan(
    procfs: str,
    own_numbers: bool,
    wanted: list,  # type: ignore[type-arg]
    others: dict,  # type: ignore[type-arg]
    surely: bool,
    found: list[dict[int, Relative]],
    seen: set[str],
) -> bool:
    """Add relatives to ``found``, and whom this has looked at to ``seen``; returns whether a process ended meanwhile."""
    # Anew for each scan: when a process ends, others get another parent.
    kin = [_Kin(procfs, first, parent, others, surely) for _, first, parent in wanted]
    since = min((first["start"] for _, first, _ in wanted), default=0)
    vanished = False
    for name in posix.listdir(procfs):
        if name in seen or not name.isdigit() or others.get(int(name)) == _NOTHING:
            continue
        try:
            ends = False
            for tid in _threads(procfs, name, since):
                mask = posix.sched_getaffinity(int(tid)) if own_numbers else _mask(procfs, name, tid)
                for index, (cpus, _, _) in enumerate(wanted):
                    if not mask <= cpus or not (state := _state(procfs, tid)):
                        continue
                    if state == _ENDS:
                        ends = ends or f"{name}/{tid}" not in seen
                        seen.add(f"{name}/{tid}")
                    elif kin[index].includes(int(name), mask):
                        process = {"pid": int(name), "start": kin[index].start(int(name))}
                        found[index].setdefault(int(name), Relative(process, set())).cpus.update(mask)
            if ends:  # it may have started another thread, which this has not listed: look again
                vanished = True
            else:
                seen.add(name)
        except _ENDED:
            vanished = True
        except OSError as error:
            raise Failure(LATER, f"cannot read {procfs}/{name}: {error.strerror}") from None
    return vanished


def _age(relative: Relative) -> tuple[int, int]:
    return relative.process["start"], relative.process["pid"]


def _threads(procfs: str, name: str, since: int) -> list[str]:
    """Threads of a process, none of one with many that was started before ``since``: daemons have most threads of a host."""
    # Each directory in task is a link to it: two are its own.
    if posix.stat(f"{procfs}/{name}/task").st_nlink <= 3:
        return [name]
    if int(_stat(procfs, int(name))[19]) < since:
        return []
    if not (tids := posix.listdir(f"{procfs}/{name}/task")):
        raise ProcessLookupError  # it has gone between the open and the read of the directory
    return tids


def _mask(procfs: str, name: str, tid: str) -> set[int]:
    text = _read(f"{procfs}/{name}/task/{tid}/status")
    ranges = text.partition("\nCpus_allowed_list:")[2].partition("\n")[0].strip()
    mask: set[int] = set()
    for part in ranges.split(",") if ranges else []:
        first, _, last = part.partition("-")
        mask.update(range(int(first), int(last or first) + 1))
    return mask


def _state(procfs: str, tid: str) -> str:
    """Whether a thread runs, or ends or has ended and has perhaps just started another; empty for one of the kernel's."""
    fields = _stat(procfs, int(tid))
    flags = int(fields[6])
    if flags & _KERNEL_THREAD:
        return ""
    return _ENDS if fields[0] in "ZX" or flags & _EXITING else _RUNS


def _is_namespace_init(procfs: str, pid: int) -> bool:
    """Whether orphans of a pid namespace below procfs's come to this process."""
    try:
        numbers = _read(f"{procfs}/{pid}/status").partition("\nNSpid:")[2].partition("\n")[0].split()
    except _ENDED:
        return False
    return len(numbers) > 1 and numbers[-1] == "1"


def _stat(procfs: str, number: int) -> list[str]:
    """Fields of ``stat`` from the state on."""
    stat = _read(f"{procfs}/{number}/stat")
    return stat[stat.rindex(")") + 2 :].split()


def _read(path: str) -> str:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        return posix.read(fd, 1 << 16).decode("utf-8", "replace")
    finally:
        posix.close(fd)


class _Kin:
    """Who descends from a process that may have ended."""

    def __init__(self, procfs: str, first: dict[str, int], parent: int, others: dict, surely: bool) -> None:  # type: ignore[type-arg]
        self._procfs, self._first, self._others = procfs, first, others
        self._stats: dict[int, tuple[int, int]] = {}
        self._elders = self._ancestors(parent) or ({1} if surely else set())

    def start(self, pid: int) -> int:
        """Start time of a process, in clock ticks since boot."""
        return self._stat(pid)[1]

    def includes(self, pid: int, mask: set[int]) -> bool:
        """Whether a process is the first one, or was started by it or by one that was."""
        if pid in self._elders or self._stat(pid)[1] < self._first["start"]:
            return False
        while self._stat(pid)[1] >= self._first["start"]:
            if pid == self._first["pid"] and self._stat(pid)[1] == self._first["start"]:
                return True
            if mask <= self._others.get(pid, _NOTHING):
                return False
            if pid in self._elders:  # in the same clock tick
                break
            pid = self._stat(pid)[0]
            if pid in (0, 1):
                break
        is_heir = not self._elders or pid in self._elders or _is_namespace_init(self._procfs, pid)
        return is_heir and not mask <= self._others.get(pid, _NOTHING)

    def _ancestors(self, pid: int) -> set[int]:
        """The first process's parent and its ancestors, to whom orphans may come; empty if it is not known any more."""
        elders = {1}
        try:
            while pid > 1:
                if self._stat(pid)[1] > self._first["start"]:
                    return set()  # another process has its pid by now
                elders.add(pid)
                pid = self._stat(pid)[0]
        except _ENDED:
            return set()
        return elders

    def _stat(self, pid: int) -> tuple[int, int]:
        """Parent and start time."""
        if pid not in self._stats:
            fields = _stat(self._procfs, pid)
            self._stats[pid] = int(fields[1]), int(fields[19])
        return self._stats[pid]
