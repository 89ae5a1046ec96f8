"""Every bit of every state file flipped, and every file cut at every byte: refused, or the previous generation, or the right answer.

Never another exception, and never other content: a task is neither forgotten nor given another process or core.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cmk.agent.history import Entry
from cmk.host.journal import Journal
from cmk.host.moving import Member
from cmk.host.state import DamagedError, StateFile, TwinFile
from cmk.isolation.originals import Saved
from cmk.model.config import PoolConfig, Section
from cmk.model.isolation_config import Isolation, Thread
from cmk.model.layout import CpuList, Layout, Pool, SavedLayout
from cmk.model.plan import Move, Plan
from cmk.model.pods import Pod
from cmk.model.tasks import Process, Task, TasksFile
from cmk.model.topology import Core, Topology

UID = "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f"
EXCLUSIVE = Pool("exclusive", True, (CpuList(frozenset({1}), 0),))
LAYOUT = Layout({"exclusive": EXCLUSIVE, "infra": Pool("infra", False, (CpuList(frozenset({0}), 0),))})
SAVED = SavedLayout(LAYOUT, Section({"infra": PoolConfig("rest")}, "h"), "default", Topology((Core(0, 0, frozenset({0})),)))
EMPTY = SavedLayout(Layout({}), Section({}, "h"), "default", Topology(()))
TASK, NEXT = (Task(Process(pid, 777000), "exclusive", ("1",), UID, "ab" * 4) for pid in (12345, 12346))
THREAD = Thread(8, 124, frozenset({0, 3}), frozenset({0}))
ENTRY = Entry("2026-01-01T00:00:00Z", "a", "b", 1, 20, "applied")

# The file's content and that of the generation before.
FILES: dict[str, tuple[object, object, type]] = {
    "tasks.json": (TasksFile("b", [TASK], [Pod(UID, "ns", "web", {"r": 2})]), TasksFile("b", [NEXT]), TasksFile),
    "layout.json": (SAVED, EMPTY, SavedLayout),
    "isolation.json": (Saved("b", Isolation(), threads=[THREAD]), Saved("b", Isolation()), Saved),
    "history.json": ([ENTRY, ENTRY], [ENTRY], list[Entry]),
    "journal.json": (
        Journal(
            "b", EMPTY, EMPTY, Plan((), (Move(TASK, ("1",), (frozenset({1}),), (frozenset({2}),)),), ()),
            (Member(Process(8, 9), TASK.process, (THREAD,)),),
        ),
        None,
        Journal,
    ),
}  # fmt: skip


def flips(data: bytes) -> Iterator[bytes]:
    for bit in range(len(data) * 8):
        yield data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


def cuts(data: bytes) -> Iterator[bytes]:
    return (data[:end] for end in range(len(data)))


@pytest.mark.parametrize("damaged", [flips, cuts])
@pytest.mark.parametrize("name", FILES)
def test_no_damage_changes_what_is_read(name: str, damaged: object, tmp_path: Path) -> None:
    assert callable(damaged)
    (value, before, kind), path = FILES[name], tmp_path / name
    file = TwinFile(path, kind, durable=False) if before is None else StateFile(path, kind, durable=False)
    for content in (before, value):
        if content is not None:
            file.write(content)
    whole = path.read_bytes()
    previous = file.previous.read_bytes()
    expected = value if before is None else before
    for data in damaged(whole):
        path.write_bytes(data)
        assert file.read() == expected
        assert file.fault
    file.previous.write_bytes(previous[:-1])
    with pytest.raises(DamagedError):
        file.read()
