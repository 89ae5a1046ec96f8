"""``cmk isolate`` on one host without an agent: it allocates in the file ``pools.json``, under a lock, by the rules of ``model.choice``.

Imports extension modules and cmk.model.choice only, for it runs before every workload: ``_json`` is the C half of json, whose other half
imports re and would take half of the time of a start. ``cmk.direct.pools`` creates and changes
the same file. Its fields:

``saved``   the layout and what it was computed from. Read here: ``saved.layout.pools``, by name of the pool
            ``{"exclusive": bool, "lists": [{"cpus": [3, 11], "socket": 0}, ...]}``, lists ordered by first CPU.
``boot``    boot id of the kernel that ran the tasks; under another one all of them have ended.
``tasks``   ``{"process": {"pid": int, "start": clock ticks since boot}, "pool": name, "lists": ["3,11"], "cores": int,
            "socket": int (-1 is any), "on_move": {"how": "follow" | "pinned" | "notify", "signal": int (0 is none)}}`` each.
``moving``  ``{"PID": ["4,12"]}``: the lists that an unfinished ``cmk reconfigure`` was to give a task. Nobody else gets them.
"""

import fcntl
import posix
from time import monotonic, sleep

from cmk.isolate.ask import STATE, serves
from cmk.isolate.say import LATER, NEVER, Failure, program
from cmk.model import choice
from cmk.model.choice import comma_list

__all__ = ["LOCK", "STATE", "Lock", "choose", "comma_list", "environment", "isolate", "serves"]

try:
    import _json
except ImportError:
    _json = None  # type: ignore[assignment]

LOCK = "lock"
# json's extension module is CPython's own affair: another Python may have none, or one that is called otherwise.
_OTHER_PYTHON = (AttributeError, TypeError)
# What a pools.json of another shape ends in: the file is read without a schema.
_DAMAGE = (KeyError, TypeError, AttributeError, ValueError, IndexError, OverflowError)
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.1


class _Decoding:
    """What json's scanner asks of a decoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_int = int
    parse_float = parse_constant = float


class Lock:
    """The lock on ``DIR/lock``, held for a block; the file has the holder's pid. Raises Failure at the deadline (of ``monotonic``)."""

    def __init__(self, directory: str, deadline: float) -> None:
        self._path = f"{directory}/{LOCK}"
        self._deadline = deadline
        self._fd = -1

    def __enter__(self) -> "Lock":
        while not self._acquire():
            posix.close(self._fd)
        try:
            posix.ftruncate(self._fd, 0)
            posix.pwrite(self._fd, f"{posix.getpid()}\n".encode(), 0)
        except OSError:
            pass  # a full disk: the lock is held all the same, but the file does not name its holder
        return self

    def _acquire(self) -> bool:
        """Wait for the lock; False if ``cmk uninstall`` has removed the locked file meanwhile."""
        try:
            self._fd = posix.open(self._path, posix.O_RDWR | posix.O_CREAT | posix.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Failure(NEVER, f"cannot open {self._path}: {error.strerror}") from None
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic() >= self._deadline:
                    holder = posix.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
                    posix.close(self._fd)
                    owner = f"process {holder}" if holder.isdigit() else "another process"
                    raise Failure(LATER, f"{self._path} is held by {owner}; gave up after CMK_LOCK_TIMEOUT") from None
            except OSError as error:
                posix.close(self._fd)
                raise Failure(NEVER, f"cannot lock {self._path}: {error.strerror}") from None
            sleep(max(min(pause, self._deadline - monotonic()), 0))
            pause = min(pause * 2, _LAST_PAUSE)
        return posix.fstat(self._fd).st_nlink > 0

    def __exit__(self, *_: object) -> None:
        posix.close(self._fd)


def isolate(
    directory: str, pool: str, cores: int, socket: int, *, pin: bool, seconds: float, procfs: str, on_move: str = ""
) -> dict[str, str]:
    """Allocate CPU lists to this process and, with ``pin``, move it to their CPUs; returns the workload's variables.

    ``seconds`` is how long to wait for the lock and for free lists. Raises Failure.
    """
    how = _parse_on_move(on_move)
    deadline = monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        with Lock(directory, deadline):
            try:
                return _allocate(directory, pool, cores, socket, pin=pin, procfs=procfs, on_move=how)
            except _DAMAGE as error:
                what = f"it lacks {error}" if isinstance(error, KeyError) else f"it is damaged ({error})"
                text = f"cannot use {directory}/{STATE}: {what}; move it away and run {program()} init"
                raise Failure(NEVER, text) from None
            except Failure as failure:
                if failure.code != LATER or monotonic() >= deadline:
                    raise
        sleep(max(min(pause, deadline - monotonic()), 0))
        pause = min(pause * 2, _LAST_PAUSE)


def _allocate(  # type: ignore[no-untyped-def]
    directory: str,
    pool: str,
    cores: int,
    socket: int,
    *,
    pin: bool,
    procfs: str,
    on_move,  # noqa: ANN001
) -> dict[str, str]:
    state = _read_state(f"{directory}/{STATE}")
    pools = state["saved"]["layout"]["pools"]
    boot = _read_text(f"{procfs}/sys/kernel/random/boot_id").strip()
    stat = _read_text(f"{procfs}/self/stat")
    own = {"pid": int(stat.split(" ", 1)[0]), "start": _start_time(stat)}
    tasks = [task for task in state["tasks"] if state["boot"] == boot and _is_running(procfs, task["process"])]
    moving = {pid: names for pid, names in state["moving"].items() if any(str(task["process"]["pid"]) == pid for task in tasks)}
    tasks = [task for task in tasks if task["process"] != own]
    name, lists = choose(pools, tasks, pool, cores, socket, _cpus_of_moves(moving))
    if pin:
        _pin({cpu for item in lists for cpu in item["cpus"]})
    names = [comma_list(item["cpus"]) for item in lists]
    tasks.append({"process": own, "pool": name, "lists": names, "cores": cores, "socket": socket, "on_move": on_move})
    assigned = environment(pools, lists)
    if on_move["how"] == "notify":
        assigned["CMK_STATE"] = _write_notice(directory, own, names, lists)
    _write(f"{directory}/{STATE}", _encode({**state, "boot": boot, "tasks": tasks, "moving": moving}))
    return assigned


def choose(  # type: ignore[no-untyped-def]
    pools: dict,  # type: ignore[type-arg]
    tasks: list,  # type: ignore[type-arg]
    pool: str,
    cores: int,
    socket: int,
    moving=frozenset(),  # noqa: ANN001
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


def _pin(cpus: set[int]) -> None:
    """Set the affinity of this process and read it back, for the kernel intersects it with the cpuset without a word; raises Failure."""
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


def _is_running(procfs: str, process: dict[str, int]) -> bool:
    """Whether a process runs; a zombie does not, nor does another process that has its pid by now."""
    try:
        stat = _read_text(f"{procfs}/{process['pid']}/stat")
    except Failure:
        return False
    return _start_time(stat) == process["start"] and stat[stat.rindex(")") + 2] not in "ZX"


def _start_time(stat: str) -> int:
    """Clock ticks since boot, out of a process's ``stat`` file: the name of the program, in parentheses, may have blanks."""
    return int(stat[stat.rindex(")") + 2 :].split()[19])


def _cpus_of_moves(moving: dict) -> frozenset:  # type: ignore[type-arg]
    return frozenset(int(cpu) for names in moving.values() for name in names for cpu in name.split(","))


def _read_text(path: str) -> str:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as error:
        raise Failure(NEVER, f"cannot read {path}: {error.strerror}") from None
    try:
        text = b""
        while part := posix.read(fd, 1 << 20):
            text += part
    except OSError as error:
        raise Failure(NEVER, f"cannot read {path}: {error.strerror}") from None
    finally:
        posix.close(fd)
    return text.decode("utf-8", "replace")


def _read_state(path: str) -> dict:  # type: ignore[type-arg]
    try:
        content = _decode(_read_text(path).strip())
    except (ValueError, RecursionError) as error:
        raise Failure(NEVER, f"cannot use {path}: {error}; move it away and run {program()} init") from None
    return content if isinstance(content, dict) else {}


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


def _encode(content: object) -> str:
    """What ``json.dumps`` returns."""
    try:
        encode = _json.make_encoder(None, str, _json.encode_basestring_ascii, None, ": ", ", ", False, False, False)
        return "".join(encode(content, 0))
    except _OTHER_PYTHON:
        import json  # noqa: PLC0415  # slower, and the same in every Python

        return json.dumps(content)


def _parse_on_move(text: str):  # type: ignore[no-untyped-def]  # noqa: ANN202  # a dict; typing is heavy
    """The value of ``--on-move`` as ``cmk.model.onmove`` reads it, with the same error texts; raises Failure."""
    how, colon, name = (text or "follow").partition(":")
    number = 0
    if colon:
        import _signal  # type: ignore[import-not-found]  # noqa: PLC0415  # no stub; signal itself would import enum

        word = name.upper()
        number = getattr(_signal, word if word.startswith("SIG") else f"SIG{word}", 0)
        if how != "notify" or type(number) is not int or number in (0, 9, 19):
            text = f"on-move {text[:40]!r}: only notify takes a signal, and one that can be caught, as in notify:SIGHUP"
            raise Failure(NEVER, text)
    if how not in ("follow", "pinned", "notify"):
        raise Failure(NEVER, f"on-move {text[:40]!r} is none of follow, pinned, notify, notify:SIGNAL")
    return {"how": how, "signal": number}


def _write_notice(directory: str, process: dict[str, int], names: list[str], lists: list) -> str:  # type: ignore[type-arg]
    """Write the file in which a task with ``--on-move=notify`` finds its CPUs; returns its path."""
    path = f"{directory}/state"
    try:
        posix.mkdir(path, 0o755)
    except FileExistsError:
        pass
    except OSError as error:
        raise Failure(LATER, f"cannot make {path}: {error.strerror}") from None
    path = f"{path}/{process['pid']}-{process['start']}.json"
    cpus = [cpu for item in lists for cpu in item["cpus"]]
    _write(path, _encode({"generation": 1, "cpus": comma_list(cpus), "lists": names}))
    return path


def _write(path: str, text: str) -> None:
    """Replace a file by rename, so that a kill leaves the old file or the new one."""
    directory, _, name = path.rpartition("/")
    temporary = f"{directory}/.{name}.new"
    try:
        fd = posix.open(temporary, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC, 0o644)
        try:
            data = text.encode()
            while data:
                data = data[posix.write(fd, data) :]
        finally:
            posix.close(fd)
        posix.rename(temporary, path)
    except OSError as error:
        raise Failure(LATER, f"cannot write {path}: {error.strerror}") from None
