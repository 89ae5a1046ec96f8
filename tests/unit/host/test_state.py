import os
import threading
from pathlib import Path

import pytest

from cmk.host import state
from cmk.model.tasks import Process, Task

TASK = Task(Process(1, 2), "exclusive", ("3,11",), "pod", "container")


@pytest.mark.parametrize("durable", [True, False])
def test_reads_back_what_was_written(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "x.json"
    state.write(path, TASK, durable=durable)
    assert state.read(path, Task) == TASK
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["x.json"]  # noqa: PTH208


def test_no_file_is_no_value(tmp_path: Path) -> None:
    assert state.read(tmp_path / "x.json", Task) is None


def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"process": ')
    with pytest.raises(state.StateError, match=r"x\.json.*move it away"):
        state.read(tmp_path / "x.json", Task)


def test_a_full_disk_keeps_the_old_state() -> None:
    with pytest.raises(state.StateError, match="cannot write /dev/full/x"):
        state.write(Path("/dev/full/x"), TASK, durable=False)


def test_a_leftover_of_a_killed_writer_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / ".x.json.new").write_text('{"half":')
    state.write(tmp_path / "x.json", TASK, durable=False)
    assert state.read(tmp_path / "x.json", Task) == TASK


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


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(state.StateError, match="cannot lock"):
        state.NodeLock(tmp_path / "none/lock").acquire()
