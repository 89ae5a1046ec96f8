import contextlib
import fcntl
import json
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cmk.host import state
from cmk.host.state import DamagedError, StateError, StateFile, TwinFile
from cmk.model.tasks import Process, Task

TASK = Task(Process(1, 2), "exclusive", ("3,11",), "pod", "container")
NEXT = Task(Process(7, 8), "shared", ("4",), "another pod", "container")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.json"


def state_file(path: Path) -> StateFile[Task]:
    return StateFile(path, Task, durable=False)


@pytest.mark.parametrize("durable", [True, False])
def test_reads_back_what_was_written(path: Path, durable: bool) -> None:
    state.write(path, TASK, durable=durable)
    assert state.read(path, Task) == TASK
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["x.json"]  # noqa: PTH208


def test_no_file_is_no_value(path: Path) -> None:
    assert state.read(path, Task) is None
    assert (state_file(path).read(), TwinFile(path, Task, durable=False).read()) == (None, None)


@pytest.mark.parametrize("value", [TASK, [TASK, NEXT]], ids=["an object", "a list of objects"])
def test_the_check_is_the_last_key_with_length_and_crc_of_the_rest(path: Path, value: Task | list[Task]) -> None:
    content = msgspec.json.encode(value)
    state.write(path, value, durable=False)
    written = json.loads(path.read_bytes())
    last = written[-1] if isinstance(written, list) else written
    assert list(last)[-1] == "check"
    assert last.pop("check") == f"{len(content)}-{zlib.crc32(content):08x}"
    assert written == json.loads(content)


@pytest.mark.parametrize("kind", [Task, list[Task]])
def test_a_version_without_checks_reads_the_file(path: Path, kind: type) -> None:
    value = TASK if kind is Task else [TASK, NEXT]
    state.write(path, value, durable=False)
    assert msgspec.json.decode(path.read_bytes(), type=kind) == value


def test_a_file_of_a_version_without_checks_is_read(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(TASK))
    assert state.read(path, Task) == TASK


def test_a_later_version_may_add_a_key(path: Path) -> None:
    class Later(Task, frozen=True):
        added: int = 1

    state.write(path, Later(TASK.process, TASK.pool, TASK.lists, TASK.pod, TASK.container), durable=False)
    assert state.read(path, Task) == TASK


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(state.LARGEST + 1)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None  # type: ignore[func-returns-value]


BROKEN = {
    "cut": content(b'{"process": '),
    "empty": content(b""),
    "zeros": content(bytes(200)),
    "no UTF-8": content(b'{"process":{"pid":1,"start":2},"pool":"exc\xffusive","lists":["3,11"]}'),
    "deep": content(b"[" * 200_000),
    "deep in an object": content(b'{"x":' + b"[" * 200_000),
    "a number too large": content(b'{"process":{"pid":' + b"9" * 5000 + b',"start":2},"pool":"exclusive","lists":[]}'),
    "another shape": content(b'{"process": 1}'),
    "another kind": content(b"null"),
    "a check that does not fit": content(b'{"process":{"pid":1,"start":2},"pool":"p","lists":[],"check":"55-00000000"}'),
    "an unknown key": content(b'{"process":{"pid":1,"start":2},"pool":"p","lists":[],"Check":"55-00000000"}'),
    "a directory": Path.mkdir,
    "a FIFO": fifo,
    "a device": device,
    "a huge file": huge,
}


@pytest.fixture(params=BROKEN.values(), ids=BROKEN.keys())
def damage(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    function: Callable[[Path], None] = request.param
    return function


def test_a_damaged_file_is_named_with_a_remedy(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    for read in (lambda: state.read(path, Task), state_file(path).read, TwinFile(path, Task, durable=False).read):
        with pytest.raises(DamagedError, match=r"x\.json: .*; move it away to start afresh$"):
            read()


def test_the_generation_before_stands_in_for_a_damaged_file(path: Path, damage: Callable[[Path], None]) -> None:
    for task in (TASK, NEXT):
        state_file(path).write(task)
    path.unlink()
    damage(path)
    file = state_file(path)
    assert file.read() == TASK
    assert file.fault.startswith(f"cannot use {path}: ")
    assert file.fault.endswith(f"going on with the generation before, {path}.old")


def test_the_generation_before_stands_in_for_a_lost_file(path: Path) -> None:
    for task in (TASK, NEXT):
        state_file(path).write(task)
    path.unlink()
    file = state_file(path)
    assert file.read() == TASK
    assert file.fault == f"{path} is missing: going on with the generation before, {path}.old"


def test_two_damaged_generations_are_both_named(path: Path) -> None:
    for task in (TASK, NEXT):
        state_file(path).write(task)
    for name in ("x.json", "x.json.old"):
        path.with_name(name).write_text("{")
    with pytest.raises(DamagedError, match=r"x\.json: .*x\.json\.old: "):
        state_file(path).read()


def test_a_whole_file_has_no_fault(path: Path) -> None:
    file = state_file(path)
    for task in (TASK, NEXT):
        file.write(task)
        assert (file.read(), file.fault) == (task, "")


def test_a_damaged_file_does_not_become_the_generation_before(path: Path) -> None:
    file = state_file(path)
    for task in (TASK, NEXT):
        file.write(task)
    path.write_text("{")
    file.read()
    file.write(NEXT)
    assert (state.read(path, Task), state.read(file.previous, Task)) == (NEXT, TASK)
    file.write(TASK)
    assert state.read(file.previous, Task) == NEXT


def test_a_deleted_file_leaves_no_generation(path: Path) -> None:
    file = state_file(path)
    for task in (TASK, NEXT):
        file.write(task)
    file.delete()
    file.delete()
    assert (file.read(), list(path.parent.iterdir())) == (None, [])


def test_a_deleted_file_leaves_nothing_that_killed_writers_have_left(path: Path) -> None:
    file = state_file(path)
    file.write(TASK)
    for name in (".x.json.new", ".x.json.old.new"):
        (path.parent / name).write_text("half")
    file.delete()
    assert list(path.parent.iterdir()) == []


class Killed(BaseException):
    """What stands for a kill in the middle of a write."""


def before_each_call(patch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """Call ``do`` before every system call of a write that changes anything."""

    def patched(call: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **keywords: object) -> object:
            do()
            return call(*args, **keywords)

        return run

    for name in ("open", "writev", "link", "replace"):
        patch.setattr(os, name, patched(getattr(os, name)))


def test_at_every_instant_one_generation_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, seen, looking = state_file(path), [], []
    file.write(TASK)

    def look() -> None:
        if not looking:
            looking.append(True)
            seen.append(state_file(path).read())
            looking.clear()

    with monkeypatch.context() as patch:
        before_each_call(patch, look)
        file.write(NEXT)
    assert seen == [TASK] * 5
    assert file.read() == NEXT


@pytest.mark.parametrize("calls", range(6))
def test_a_writer_that_is_killed_leaves_nothing_in_the_way(path: Path, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made = state_file(path), []
    file.write(TASK)

    def kill() -> None:
        made.append(True)
        if len(made) > calls:
            raise Killed

    with monkeypatch.context() as patch, contextlib.suppress(Killed):
        before_each_call(patch, kill)
        file.write(NEXT)
    assert state_file(path).read() == (TASK if calls < 5 else NEXT)
    again = state_file(path)
    for task in (NEXT, TASK):
        again.write(task)
    assert (again.read(), state.read(again.previous, Task)) == (TASK, NEXT)


def test_a_copy_stands_in_for_a_damaged_twin(path: Path) -> None:
    file = TwinFile(path, Task, durable=True)
    file.write(TASK)
    path.write_text("{")
    assert file.read() == TASK
    assert "x.json.old" in file.fault


def test_the_copy_of_a_twin_that_is_gone_means_nothing(path: Path) -> None:
    file = TwinFile(path, Task, durable=True)
    file.write(TASK)
    path.unlink()
    assert file.read() is None
    file.write(NEXT)
    file.delete()
    assert list(path.parent.iterdir()) == []


def test_a_full_disk_keeps_the_old_state(path: Path) -> None:
    with pytest.raises(StateError, match="cannot write /dev/full/x"):
        state.write(Path("/dev/full/x"), TASK, durable=False)


@pytest.mark.parametrize("name", ["writev", "link", "replace"])
def test_what_cannot_be_written_keeps_both_generations_and_takes_no_room(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = state_file(path)
    for task in (TASK, NEXT):
        file.write(task)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(StateError, match=rf"cannot write {path}: No space left on device"):
            file.write(TASK)
    assert file.read() == NEXT
    assert sorted(os.listdir(path.parent))[-2:] == ["x.json", "x.json.old"]  # noqa: PTH208
    assert not (path.parent / ".x.json.new").exists()
    file.write(TASK)
    assert file.read() == TASK


def test_a_leftover_of_a_killed_writer_does_not_matter(path: Path) -> None:
    (path.parent / ".x.json.new").write_text('{"half":')
    state.write(path, TASK, durable=False)
    assert state.read(path, Task) == TASK


def test_what_cannot_be_removed_is_named(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateError, match=f"cannot remove {path}"):
        state_file(path).delete()


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    first, second = state.NodeLock(tmp_path / "lock"), state.NodeLock(tmp_path / "lock")
    first.acquire()
    order = []

    def wait() -> None:
        second.acquire()
        order.append("second")

    thread = threading.Thread(target=wait)
    thread.start()
    order.append("first")
    first.release()
    thread.join()
    second.release()
    assert order == ["first", "second"]


@pytest.mark.parametrize("replaced", [True, False])
def test_a_lock_on_a_file_that_is_not_there_any_more_is_none(
    tmp_path: Path, replaced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    flock = fcntl.flock

    def after_another_removed_it(fd: int, how: int) -> None:
        flock(fd, how)
        monkeypatch.undo()
        path.unlink()
        if replaced:
            path.touch()

    monkeypatch.setattr(fcntl, "flock", after_another_removed_it)
    lock = state.NodeLock(path)
    lock.acquire()
    with path.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock.release()


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("elsewhere"), Path.mkdir], ids=["a link", "a directory"])
def test_a_lock_that_is_no_file_is_named(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "lock")
    with pytest.raises(StateError, match="cannot lock"):
        state.NodeLock(tmp_path / "lock").acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot lock"):
        state.NodeLock(tmp_path / "none/lock").acquire()
