"""``cmk isolate`` on one host without an agent: it allocates in the file ``pools.json``, under a lock, by the rules of ``model.choice``.

Imports extension modules and little of cmk only, for it runs before every workload: ``_json`` is the C half of json, whose other half
imports re and would take half of the time of a start. ``cmk.direct.pools`` creates and changes
the same file. What only a start on the core of an owner that has ended needs is in ``cmk.isolate.family``. Fields of the file:

``saved``   the layout and what it was computed from. Read here: ``saved.layout.pools``, by name of the pool
            ``{"exclusive": bool, "lists": [{"cpus": [3, 11], "socket": 0}, ...]}``, lists ordered by first CPU.
``boot``    boot id of the kernel that ran the tasks; under another one all of them have ended.
``tasks``   ``{"process": {"pid": int, "start": clock ticks since boot}, "pool": name, "lists": ["3,11"], "cores": int,
            "socket": int (-1 is any), "on_move": {"how": "follow" | "pinned" | "notify", "signal": int (0 is none)},
            "parent": pid of the process's parent, "left_by": process that had the lists before, or null}`` each.
``moving``  ``{"PID": ["4,12"]}``: the lists that an unfinished ``cmk reconfigure`` was to give a task, and CPUs on which it was to
            park it. Nobody else gets them.
``pidns``   pid namespace of the numbers in ``tasks``, as ``pid:[4026531836]``.
``check``   length and checksum of the file without this field (``seal``). Files of older versions have none.

A start replaces the file without fsync, which would take longer than all else. So a power cut may damage it: then the tasks have ended,
and the layout is in ``layout.json``, which is always synced. The file ``boot`` names the boot in which ``pools.json`` was last written.
"""

import posix
from time import clock_gettime, monotonic, sleep

from cmk.isolate.ask import STATE, serves
from cmk.isolate.lock import LOCK, Lock
from cmk.isolate.say import LATER, NEVER, Failure, program
from cmk.model import choice
from cmk.model.choice import comma_list

__all__ = ["BOOT", "LAYOUT", "LOCK", "STATE", "Lock", "ProcessTable", "choose", "comma_list", "environment", "isolate", "serves"]

try:
    import _json
except ImportError:
    _json = None  # type: ignore[assignment]

LAYOUT, BOOT = "layout.json", "boot"
# json's extension module is CPython's own affair: another Python may have none, or one that is called otherwise.
_OTHER_PYTHON = (AttributeError, TypeError)
# What a pools.json of another shape ends in: the file is read without a schema.
_DAMAGE = (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError)
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.1
# Top-level fields that versions without a check wrote, or kept when they met them.
_FIELDS = {"saved", "boot", "tasks", "moving", "pidns", "check"}
_CHECK = b',"check":"'
_LARGEST = 64 << 20  # of a file: what is longer, as a device without end, is read as one that breaks off
_PRIME = (1 << 30) - 35
# Among the next numbers after an owner's all its children are found, unless the numbers have gone round since: no kernel starts so many
# threads in a clock tick of 10 ms. To look at that many numbers takes less than to look at all processes.
_NEAR, _MOST_IN_A_TICK = 512, 2000
_INITIAL_TIME = "time:[4026531834]"  # PROC_TIME_INIT_INO: the same on every kernel that has time namespaces
_BOOTTIME, _TICKS = 7, 100  # CLOCK_BOOTTIME, and clock ticks in a second


class _Decoding:
    """What json's scanner asks of a decoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_int = int
    parse_float = parse_constant = float


def isolate(
    directory: str, pool: str, cores: int, socket: int, *, pin: bool, seconds: float, procfs: str, on_move: str = ""
) -> dict[str, str]:
    """Allocate CPU lists to this process and, with ``pin``, move it to their CPUs; returns the workload's variables.

    ``seconds`` is how long to wait for the lock and for free lists. Raises Failure.
    """
    how = {"how": "follow", "signal": 0}
    if on_move:
        from cmk.isolate.on_move import parse  # noqa: PLC0415  # few ask for it

        how = parse(on_move)
    deadline, pause = monotonic() + seconds, _FIRST_PAUSE
    while True:
        with Lock(directory, deadline):
            try:
                return _allocate(directory, pool, cores, socket, pin=pin, procfs=procfs, on_move=how)
            except _DAMAGE as error:
                why = f"it lacks {error}" if isinstance(error, KeyError) else f"it is damaged ({error})"
                raise unusable(f"{directory}/{STATE}", why) from None
            except Failure as failure:
                if failure.code != LATER or monotonic() >= deadline:
                    raise
        sleep(max(min(pause, deadline - monotonic()), 0))
        pause = min(pause * 2, _LAST_PAUSE)


def _allocate(
    directory: str,
    pool: str,
    cores: int,
    socket: int,
    *,
    pin: bool,
    procfs: str,
    on_move: dict,  # type: ignore[type-arg]
) -> dict[str, str]:
    host = ProcessTable(procfs)
    state = read_state(directory, host.boot)
    if state["boot"] != host.boot:
        state = begin_boot(directory, state, host.boot)
    elif not host.can_see(state):
        state = {**state, "tasks": [], "moving": {}}
    books = Books(directory, state, host)
    name, lists = books.choose(pool, cores, socket)
    names = [comma_list(item["cpus"]) for item in lists]
    task = {"process": host.own, "pool": name, "lists": names, "cores": cores, "socket": socket, "on_move": on_move}
    assigned = environment(books.pools, lists)
    before = _pin({cpu for item in lists for cpu in item["cpus"]}) if pin else None
    try:
        if on_move["how"] == "notify":
            from cmk.isolate.on_move import notice_path  # noqa: PLC0415

            assigned["CMK_STATE"] = path = notice_path(directory, host.own)
            cpus = comma_list(cpu for item in lists for cpu in item["cpus"])
            write(path, encode({"generation": 1, "cpus": cpus, "lists": names}).encode())
        books.write({**task, "parent": host.parent, "left_by": None})
    except Failure:
        if before:  # what cannot be written is not this process's, which may wait for long until it can
            posix.sched_setaffinity(0, before)
        raise
    return assigned


class Books:
    """The tasks of a state whose process runs, ``living``, and those whose process has ended or asks again, ``ended``.

    The lists of an ended task of an exclusive pool stay taken while another process of its family runs on them, to which the task then
    passes. To look for one takes longer than all else, so that it is done when the lists would be handed out, and only then.
    """

    def __init__(self, directory: str, state: dict, host: "ProcessTable") -> None:  # type: ignore[type-arg]
        self.pools = state["saved"]["layout"]["pools"]
        self._directory, self._state, self._host = directory, state, host
        self._moving = dict(state["moving"].items())  # a list is damage
        self.living, self.ended = [], []
        for task in state["tasks"]:
            if task["process"] != host.own and host.is_running(task["process"]):
                self.living.append(task)
            elif self.pools[task["pool"]]["exclusive"]:
                self.ended.append(task)

    def choose(self, pool: str, cores: int, socket: int) -> tuple[str, list]:  # type: ignore[type-arg]
        """Name of the pool and lists for this process; raises Failure."""
        self._pass_on([task for task in self.ended if task["process"] != self._host.own and self._is_moving(task)])
        while True:
            try:
                name, lists = choose(self.pools, self.living, pool, cores, socket, _cpus_of_moves(self._moving))
            except Failure as failure:
                if failure.code == LATER and (left := [task for task in self.living if task.get("left_by")]):
                    from cmk.isolate import family  # noqa: PLC0415

                    raise family.with_leftovers(failure, left) from None
                raise
            chosen = {comma_list(item["cpus"]) for item in lists}
            given = [task for task in self.ended if self._is_given(task, name, chosen)]
            if not given:
                return name, lists
            self._pass_on(given)

    def write(self, task: dict) -> None:  # type: ignore[type-arg]
        """Write the state with a further task: what this process had before is over."""
        self.ended = [other for other in self.ended if other["process"] != self._host.own]
        self._write([*self.living, *self.ended, task])

    def _is_moving(self, task: dict) -> bool:  # type: ignore[type-arg]
        return str(task["process"]["pid"]) in self._moving

    def _is_given(self, task: dict, pool: str, chosen: set[str]) -> bool:  # type: ignore[type-arg]
        lists = chosen if task["pool"] == pool else set()
        if task["process"] == self._host.own:  # its children may stay where they are if it does
            return self._is_moving(task) or not lists.issuperset(task["lists"])
        return not lists.isdisjoint(task["lists"])

    def _pass_on(self, tasks: list) -> None:  # type: ignore[type-arg]
        """Pass ended tasks on to their families; those without any are over."""
        if not tasks:
            return
        heirs = self._heirs(tasks)
        if self._host.own in [heir["process"] for heir in heirs if heir]:  # it has one task, and cannot hold these lists for them
            raise Failure(LATER, "processes that it has started may still run on the core that it gives up: end them first")
        self.ended = [task for task in self.ended if task not in tasks]
        for task, heir in zip(tasks, heirs, strict=True):
            lists = self._moving.pop(str(task["process"]["pid"]), None)
            if heir:
                self.living.append(heir)
                if lists:
                    self._moving[str(heir["process"]["pid"])] = lists
        if any(heir and heir != task for task, heir in zip(tasks, heirs, strict=True)):  # for the next to ask need not look again
            self._write([*self.living, *self.ended])

    def _heirs(self, tasks: list) -> list:  # type: ignore[type-arg]
        wanted = [(self._cpus(task), task) for task in tasks]
        if not any(self._host.may_have_family(task["process"], cpus) for cpus, task in wanted):
            return [None] * len(tasks)
        from cmk.isolate import family  # noqa: PLC0415  # one module less for all other starts

        others = {task["process"]["pid"]: self._cpus(task) for task in self.living} | {self._host.own["pid"]: frozenset()}
        return family.heirs(self._host.procfs, self._host.has_own_numbers, wanted, others)

    def _cpus(self, task: dict) -> frozenset:  # type: ignore[type-arg]
        return _cpus_of(task["lists"]) | _cpus_of(self._moving.get(str(task["process"]["pid"]), ()))

    def _write(self, tasks: list) -> None:  # type: ignore[type-arg]
        pids = {str(task["process"]["pid"]) for task in tasks}
        moving = {pid: names for pid, names in self._moving.items() if pid in pids}
        content = {**self._state, "tasks": tasks, "moving": moving, "pidns": self._host.namespace}
        write(f"{self._directory}/{STATE}", seal(encode(content).encode()))


def choose(
    pools: dict,  # type: ignore[type-arg]
    tasks: list,  # type: ignore[type-arg]
    pool: str,
    cores: int,
    socket: int,
    moving: frozenset = frozenset(),  # type: ignore[type-arg]
) -> tuple[str, list]:  # type: ignore[type-arg]
    """Name of the pool and lists for a request of a process outside every pod; raises Failure.

    ``moving`` are CPUs to which an interrupted change was about to move tasks: their lists are not handed out.
    """
    try:
        name = choice.find_pool(pools, pool)
        lists = {comma_list(item["cpus"]): item for item in pools[name]["lists"]}
        users: dict[str, int] = {}
        for text in (text for task in tasks if task["pool"] == name for text in task["lists"]):
            users[text] = users.get(text, 0) + 1
        available = [text for text, item in lists.items() if moving.isdisjoint(item["cpus"])]
        sockets = {text: item["socket"] for text, item in lists.items()}
        names = choice.choose(name, pools[name]["exclusive"], sockets, users, cores, socket, available)
    except choice.Refused as refusal:
        raise Failure(NEVER if refusal.final else LATER, str(refusal)) from None
    return name, [lists[text] for text in names]


def environment(pools: dict, lists: list) -> dict[str, str]:  # type: ignore[type-arg]
    """Variables that the workload sees."""

    def all_of(name: str) -> list[int]:
        return [cpu for item in pools.get(name, {}).get("lists", []) for cpu in item["cpus"]]

    return choice.environment([item["cpus"] for item in lists], all_of("shared"), all_of("infra"))


def _pin(cpus: set[int]) -> set[int]:
    """Set the affinity of this process, and read it back, for the kernel intersects it with the cpuset without a word.

    Returns the one before; raises Failure.
    """
    before = posix.sched_getaffinity(0)
    try:
        posix.sched_setaffinity(0, cpus)
    except OSError as error:
        text = f"CPUs {comma_list(cpus)} refused by the kernel ({error.strerror}): outside this process's cpuset?"
        raise Failure(NEVER, text) from None
    if (allowed := posix.sched_getaffinity(0)) != cpus:
        posix.sched_setaffinity(0, before)
        text = (
            f"the cpuset of this process allows only {comma_list(allowed)} of CPUs {comma_list(cpus)}: start it in a larger one"
        )
        raise Failure(NEVER, text)
    return before


class ProcessTable:
    """This process, and what procfs says of others. Its numbers may be those of an outer pid namespace, whose procfs a container mounts.

    ``namespace`` is that of the numbers, as in ``/proc/PID/ns/pid``. Raises Failure.
    """

    def __init__(self, procfs: str) -> None:
        self.procfs = procfs
        self.boot = _read_text(f"{procfs}/sys/kernel/random/boot_id").strip()
        stat = _read_text(f"{procfs}/self/stat")
        fields = stat_fields(stat)
        self.own = {"pid": int(stat.split(" ", 1)[0]), "start": int(fields[19])}
        self.parent = int(fields[1])
        self.has_own_numbers = self.own["pid"] == posix.getpid()
        try:
            self.namespace = posix.readlink(f"{procfs}/self/ns/pid")
        except OSError as error:
            raise Failure(NEVER, f"cannot read {procfs}/self/ns/pid: {error.strerror}") from None
        if _is_in_time_namespace(procfs):
            raise Failure(NEVER, "in a time namespace the start times of other processes are not theirs: run it outside of that")
        if not self.has_own_numbers:
            from cmk.isolate import family  # noqa: PLC0415  # a container that mounts another procfs

            self.namespace = family.outer_namespace(procfs)

    def can_see(self, state: dict) -> bool:  # type: ignore[type-arg]
        """Whether the tasks of a state are of this pid namespace; False if they are of another one that has ended. Raises Failure."""
        if not state["tasks"] or state.get("pidns", "") in ("", self.namespace):  # older versions wrote none
            return True
        from cmk.isolate import family  # noqa: PLC0415  # for once

        family.check_ended(self.procfs, self.namespace, state["pidns"])
        return False

    def is_running(self, process: dict[str, int]) -> bool:
        """Whether a process runs, and be it with other threads than its first; not another process that has its pid by now."""
        try:
            fields = stat_fields(read(f"{self.procfs}/{process['pid']}/stat").decode("utf-8", "replace"))
        except (FileNotFoundError, ProcessLookupError):
            if _exists(f"{self.procfs}/1"):
                return False
        except PermissionError:
            pass
        else:
            alive = fields[0] not in "ZX" or (fields[0] == "Z" and int(fields[17]) > 1)
            return int(fields[19]) == process["start"] and alive
        from cmk.isolate import family  # noqa: PLC0415  # procfs is mounted with hidepid, and shows nothing of other users' processes

        return family.exists(process["pid"], self.has_own_numbers)

    def may_have_family(self, process: dict[str, int], cpus: frozenset) -> bool:  # type: ignore[type-arg]
        """False if for sure no process runs on ``cpus`` alone that an ended process has started; True if one has to look."""
        if not self.has_own_numbers:
            return True
        ticks = clock_gettime(_BOOTTIME) * _TICKS - process["start"] + 1
        if ticks * _MOST_IN_A_TICK > int(_read_text(f"{self.procfs}/sys/kernel/pid_max")):
            return True
        first = number = process["pid"] + 1
        while True:
            last = int(_read_text(f"{self.procfs}/loadavg").split()[4])  # the number that was handed out last
            if not 0 <= last + 1 - first <= _NEAR:
                return True
            if number > last:
                return False
            # Who ends before it is looked at has handed on a number that is greater, and not greater than the last one then.
            while number <= last:
                try:
                    if posix.sched_getaffinity(number) <= cpus:
                        return True
                except ProcessLookupError:
                    pass
                number += 1


def stat_fields(stat: str) -> list[str]:
    """Fields of a process's ``stat`` file from its state on: the name of the program before it, in parentheses, may have anything."""
    return stat[stat.rindex(")") + 2 :].split()


def _is_in_time_namespace(procfs: str) -> bool:
    try:
        return posix.readlink(f"{procfs}/self/ns/time") != _INITIAL_TIME
    except OSError:
        return False  # a kernel without any


def _cpus_of_moves(moving: dict) -> frozenset:  # type: ignore[type-arg]
    return _cpus_of(name for names in moving.values() for name in names)


def _cpus_of(names) -> frozenset:  # type: ignore[no-untyped-def,type-arg]  # noqa: ANN001  # an iterable; typing is heavy
    return frozenset(int(cpu) for name in names for cpu in name.split(","))


def _read_text(path: str) -> str:
    try:
        return read(path).decode("utf-8", "replace")
    except OSError as error:
        raise Failure(NEVER, f"cannot read {path}: {error.strerror}") from None


def read(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK)  # a FIFO is read as an empty file
    try:
        data = b""
        while len(data) < _LARGEST and (part := posix.read(fd, 1 << 20)):
            data += part
        return data
    finally:
        posix.close(fd)


def read_state(directory: str, boot: str) -> dict:  # type: ignore[type-arg]
    """The content of ``pools.json``, or what a power cut has left: the layout without tasks. Raises Failure."""
    path = f"{directory}/{STATE}"
    try:
        return read_sealed(path)
    except Failure:
        try:
            if read(f"{directory}/{BOOT}").decode("ascii", "replace").strip() != boot:
                return {"boot": "", "tasks": [], "moving": {}, "saved": read_sealed(f"{directory}/{LAYOUT}")["saved"]}
        except (Failure, OSError, KeyError):
            pass  # the first error says more
        raise


def read_sealed(path: str) -> dict:  # type: ignore[type-arg]
    """The content of a file with a check, or of an older version's; raises Failure if it is damaged."""
    try:
        data = read(path)
    except OSError as error:
        raise Failure(NEVER, f"cannot read {path}: {error.strerror}") from None
    try:
        head, sealed, tail = data.rpartition(_CHECK)
        if sealed and tail != f'{_check(head + b"}")}"}}'.encode():
            raise ValueError("its check does not fit its content")
        content = _decode((head + b"}" if sealed else data).decode().strip())
        content = content if isinstance(content, dict) else {}
        if not sealed and (unknown := content.keys() - _FIELDS):
            raise ValueError(f"it has a field {min(unknown)[:40]!r}, but no check")
    except (ValueError, RecursionError) as error:
        raise unusable(path, str(error)) from None
    content.pop("check", None)  # as an older version has kept it: no longer that of the content
    return content


def unusable(path: str, why: str) -> Failure:
    """The refusal to use a damaged file, and the remedy."""
    return Failure(
        NEVER, f"cannot use {path}: {why}; {program()} reconcile makes it anew from {LAYOUT} and the processes on the cores"
    )


def seal(content: bytes) -> bytes:
    """A JSON object with a last field that shows damage to it, to be read by ``read_sealed``."""
    return content[:-1] + _CHECK + f'{_check(content)}"}}'.encode()


def _check(content: bytes) -> str:
    # The remainder by a prime: no bit, nor any burst of 29, changes without it. A CRC would need another extension module to be loaded.
    return f"{len(content)}-{int.from_bytes(content, 'little') % _PRIME:08x}"


def _decode(text: str) -> object:
    """What ``json.loads`` returns; raises ValueError."""
    try:
        content, end = _json.make_scanner(_Decoding)(text, 0)  # type: ignore[arg-type]
        if end == len(text):
            return content
    except (StopIteration, SystemError, ValueError, RecursionError, *_OTHER_PYTHON):
        pass  # SystemError: the class of the error is in json.decoder, which is not imported
    import json  # noqa: PLC0415  # it says what is wrong with the text

    return json.loads(text)


def encode(content: object) -> str:
    """What ``json.dumps`` returns, without blanks."""
    try:
        encode = _json.make_encoder(None, str, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
        return "".join(encode(content, 0))
    except _OTHER_PYTHON:
        import json  # noqa: PLC0415  # slower, and the same in every Python

        return json.dumps(content, separators=(",", ":"))


def begin_boot(directory: str, state: dict, boot: str) -> dict:  # type: ignore[type-arg]
    """Before the first write of a boot: make what a power cut may have damaged anew, and say that no power cut damages what follows.

    Returns the state of this boot, without tasks.
    """
    state = {**state, "tasks": [], "moving": {}}
    if not _exists(f"{directory}/{LAYOUT}"):  # of an older version
        write(f"{directory}/{LAYOUT}", seal(encode({"saved": state["saved"]}).encode()), durable=True)
    write(f"{directory}/{STATE}", seal(encode(state).encode()))
    write(f"{directory}/{BOOT}", f"{boot}\n".encode())
    return {**state, "boot": boot}


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except FileNotFoundError:
        return False
    return True


def write(path: str, data: bytes, *, durable: bool = False) -> None:
    """Replace a file by rename, so that a kill leaves the old file or the new one; with ``durable`` a power cut does so, too."""
    directory, name = path.rsplit("/", 1)
    temporary = f"{directory}/.{name}.new"
    try:
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
        if posix.access(temporary, posix.F_OK, follow_symlinks=False):  # of a writer that was killed, perhaps of another user
            posix.unlink(temporary)
        fd = posix.open(temporary, flags, 0o644)
        try:
            while data:
                data = data[posix.write(fd, data) :]
            if durable:
                posix.fsync(fd)
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
        if durable:
            fd = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
            posix.fsync(fd)
            posix.close(fd)
    except OSError as error:
        raise Failure(LATER, f"cannot write {path}: {error.strerror}") from None
