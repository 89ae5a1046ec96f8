from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cmk.host import foreign
from cmk.host.notify import Notifier, name_of
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.onmove import How, OnMove
from cmk.model.tasks import Process, Task

LAYOUT = Layout({"exclusive": Pool("exclusive", True, (CpuList(frozenset({1, 5}), 0), CpuList(frozenset({2, 6}), 0)))})
NOTIFIED = Task(Process(7, 3), "exclusive", ("1,5", "2,6"), on_move=OnMove(How.NOTIFY))


def notifier(root: Path) -> Notifier:
    return Notifier([root], Procfs())


def test_the_file_of_a_task_with_notify_holds_its_cpus(tmp_path: Path) -> None:
    notifier(tmp_path).write_notice(Ledger(LAYOUT), NOTIFIED)
    file = tmp_path / "state" / name_of(NOTIFIED.process)
    assert json.loads(file.read_text()) == {"generation": 1, "cpus": "1,2,5,6", "lists": ["1,5", "2,6"]}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)


@pytest.mark.parametrize("how", [How.FOLLOW, How.PINNED])
def test_other_tasks_have_no_file(tmp_path: Path, how: How) -> None:
    notifier(tmp_path).write_notice(Ledger(LAYOUT), msgspec.structs.replace(NOTIFIED, on_move=OnMove(how)))
    assert list(tmp_path.iterdir()) == []


def test_write_all_writes_every_file_and_removes_all_others(tmp_path: Path) -> None:
    writer = notifier(tmp_path)
    writer.write_notice(Ledger(LAYOUT), msgspec.structs.replace(NOTIFIED, process=Process(8, 8)))
    writer.write_all(Ledger(LAYOUT, [NOTIFIED]))
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["7-3.json"]
    writer.remove_notice(NOTIFIED.process)
    writer.remove_notice(NOTIFIED.process)
    assert list((tmp_path / "state").iterdir()) == []
    writer.remove_all()
    writer.remove_all()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_write_has_left_is_removed(tmp_path: Path) -> None:
    """Of earlier versions, and of direct mode: their new files begin beside the old ones."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/.9-9.json.new").write_text("{")
    notifier(tmp_path).remove_all()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_directory_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StateError, match=r"cannot write .*/state/7-3.json: Not a directory"):
        notifier(tmp_path).write_notice(Ledger(LAYOUT), NOTIFIED)
    assert (tmp_path / "state").read_text() == "in the way"


def test_a_fifo_in_place_of_the_directory_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "state")
    notifier(tmp_path).write_notice(Ledger(LAYOUT), NOTIFIED)
    assert (tmp_path / "state" / name_of(NOTIFIED.process)).is_file()


def test_one_directory_in_which_nothing_works_does_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad.mkdir()
    good.mkdir()
    (bad / "state").write_text("in the way")
    writer = Notifier([bad, good], Procfs())
    for _ in range(3):
        writer.write_notice(Ledger(LAYOUT), NOTIFIED)
        writer.write_all(Ledger(LAYOUT, [NOTIFIED]))
        assert (good / "state" / name_of(NOTIFIED.process)).is_file()
        writer.remove_notice(NOTIFIED.process)
        assert not list((good / "state").iterdir())
    (text,) = writer.troubles.texts
    assert str(bad / "state") in text
    (bad / "state").unlink()
    writer.write_notice(Ledger(LAYOUT), NOTIFIED)
    assert writer.troubles.texts == []


def test_files_of_a_pod_are_removed_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "LISTED", 10)
    (tmp_path / "state").mkdir()
    for number in range(25):
        (tmp_path / f"state/{number}-1.json").touch()
    notifier(tmp_path).write_all(Ledger(LAYOUT))
    assert len(list((tmp_path / "state").iterdir())) == 15


def test_what_a_killed_agent_has_left_half_done_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "state/.cmk-new-0123"
    left.mkdir(parents=True, mode=0o700)
    (left / "new").write_text("half")
    notifier(tmp_path).write_all(Ledger(LAYOUT))
    assert not left.exists()


def test_the_signal_reaches_that_very_process(tmp_path: Path) -> None:
    script = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {1}); print('ready', flush=True); signal.sigwait({1})"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        process = Procfs().process(child.pid)
        wish = OnMove(How.NOTIFY, signal.SIGHUP)
        notifier(tmp_path).signal_task(
            msgspec.structs.replace(NOTIFIED, process=Process(child.pid, process.start + 1), on_move=wish)
        )
        notifier(tmp_path).signal_task(msgspec.structs.replace(NOTIFIED, process=process))
        assert child.poll() is None
        notifier(tmp_path).signal_task(msgspec.structs.replace(NOTIFIED, process=process, on_move=wish))
        assert child.wait(timeout=20) == 0


def test_a_process_that_has_ended_gets_no_signal(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    process = Process(child.pid, 1)
    child.wait()
    notifier(tmp_path).signal_task(msgspec.structs.replace(NOTIFIED, process=process, on_move=OnMove(How.NOTIFY, signal.SIGHUP)))


def test_a_thread_that_has_the_pid_of_a_process_that_has_ended_gets_no_signal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "import threading,sys; t=threading.Thread(target=sys.stdin.read); t.start(); print(t.native_id,flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        thread = Procfs().process(int(child.stdout.readline()))
        wish = OnMove(How.NOTIFY, signal.SIGKILL)
        notifier(tmp_path).signal_task(msgspec.structs.replace(NOTIFIED, process=thread, on_move=wish))
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=20) == 0
    assert not caplog.records


def test_a_signal_that_cannot_be_sent_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", fail)
    wish = OnMove(How.NOTIFY, signal.SIGHUP)
    notifier(tmp_path).signal_task(msgspec.structs.replace(NOTIFIED, process=Procfs().process(os.getpid()), on_move=wish))
    assert f"cannot signal process {os.getpid()} that its CPUs have changed: Too many open files" in caplog.text


def test_a_directory_that_a_pod_replaced_by_a_symlink_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "9-9.json").write_text("precious")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "state").symlink_to(elsewhere)
    writer = notifier(mounted)
    writer.write_all(Ledger(LAYOUT))
    writer.remove_all()
    writer.write_notice(Ledger(LAYOUT), NOTIFIED)
    assert [path.name for path in elsewhere.iterdir()] == ["9-9.json"]
    assert (mounted / "state" / name_of(NOTIFIED.process)).is_file()


def test_files_that_cmk_did_not_write_stay(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/layout.json").write_text("precious")
    notifier(tmp_path).write_all(Ledger(LAYOUT))
    notifier(tmp_path).remove_all()
    assert (tmp_path / "state/layout.json").exists()


def test_a_file_that_a_pod_replaced_by_a_symlink_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "precious").write_text("precious")
    file = tmp_path / "state" / name_of(NOTIFIED.process)
    file.symlink_to(tmp_path / "precious")
    notifier(tmp_path).write_notice(Ledger(LAYOUT), NOTIFIED)
    assert (tmp_path / "precious").read_text() == "precious"
    assert json.loads(file.read_text())["generation"] == 1


def test_files_that_cannot_be_written_or_removed_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state" / "1-1.json").mkdir(parents=True)
    (tmp_path / "state" / name_of(NOTIFIED.process) / "x").mkdir(parents=True)
    writer = notifier(tmp_path)
    writer.write_all(Ledger(LAYOUT, [NOTIFIED]))
    writer.remove_all()
    assert f"cannot remove 1 of the files in {tmp_path}/state, the first 1-1.json: Is a directory" in caplog.text
    assert f"cannot write {tmp_path}/state/{name_of(NOTIFIED.process)}" in caplog.text


def test_the_end_of_a_task_without_a_file_touches_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand may end at once, and hardly any has one."""
    notifier = Notifier([tmp_path], Procfs())
    notifier.write_all(Ledger(Layout({})))
    monkeypatch.setattr(foreign, "opened", lambda _: pytest.fail("opened"))
    notifier.remove_notice(Process(7, 1))
