from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cmk.agent.files import StateFiles
from cmk.host import state
from cmk.host.procfs import Procfs
from cmk.model.config import Section
from cmk.model.layout import SavedLayout
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task, TasksFile
from tests.unit.agent.harness import LAYOUT, POD, TOPOLOGY, options_in

SAVED = SavedLayout(LAYOUT, Section({}, "hash"), "default", TOPOLOGY)
TASK = Task(Process(17, 1), "exclusive", ("1",), POD.uid)


def files_in(root: Path) -> StateFiles:
    return StateFiles(options_in(root), Procfs())


def test_a_node_starts_without_files(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    assert files.read_layout() is None
    assert (files.read_tasks().tasks, files.read_tasks().pods) == ([], [])


def test_the_next_agent_reads_what_this_one_wrote(tmp_path: Path) -> None:
    files_in(tmp_path).write_layout(SAVED)
    files_in(tmp_path).write_tasks([TASK], [POD, Pod("u", "ns", "without-grants", {})])
    later = files_in(tmp_path)
    assert later.read_layout() == SAVED
    assert later.read_tasks() == TasksFile(Procfs().boot_id(), [TASK], [POD])


def test_tasks_of_another_boot_are_void(tmp_path: Path) -> None:
    state.write(options_in(tmp_path).tasks_file, TasksFile("another", [TASK], [POD]), durable=False)
    assert files_in(tmp_path).read_tasks() == TasksFile(Procfs().boot_id())


@pytest.mark.parametrize("read", [StateFiles.read_layout, StateFiles.read_tasks])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path: Path, read: Callable[[StateFiles], object]) -> None:
    options = options_in(tmp_path)
    for path in (options.layout_file, options.tasks_file):
        path.write_text("{")
    with pytest.raises(state.StateError, match=r"cannot use .*\.json: .*; move it away to start afresh"):
        read(files_in(tmp_path))


def test_a_deleted_layout_may_be_deleted_again(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    files.write_layout(SAVED)
    files.delete_layout()
    files.delete_layout()
    assert files.read_layout() is None


def test_each_task_is_encoded_once_however_often_the_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[object] = []
    encode = msgspec.json.encode
    monkeypatch.setattr(msgspec.json, "encode", lambda item: encoded.append(item) or encode(item))
    files, tasks = files_in(tmp_path), [TASK]
    for number in range(100):
        tasks.append(msgspec.structs.replace(TASK, process=Process(number, 1)))
        files.write_tasks(tasks, [POD])
    assert len([item for item in encoded if isinstance(item, Task | Pod)]) == 102
    assert files.read_tasks() == TasksFile(Procfs().boot_id(), tasks, [POD])
