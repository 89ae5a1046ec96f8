from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cmk.host.notify import Notices, name_of
from cmk.host.procfs import Procfs
from cmk.host.state import StateError
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.ledger import Ledger
from cmk.model.onmove import How, OnMove
from cmk.model.tasks import Process, Task

LAYOUT = Layout({"exclusive": Pool("exclusive", True, (CpuList(frozenset({1, 5}), 0), CpuList(frozenset({2, 6}), 0)))})
TOLD = Task(Process(7, 3), "exclusive", ("1,5", "2,6"), on_move=OnMove(How.NOTIFY))


def notices(root: Path) -> Notices:
    return Notices([root], Procfs())


def test_a_task_that_asked_for_it_finds_its_cpus(tmp_path: Path) -> None:
    notices(tmp_path).put(Ledger(LAYOUT), TOLD)
    file = tmp_path / "state" / name_of(TOLD.process)
    assert json.loads(file.read_text()) == {"generation": 1, "cpus": "1,2,5,6", "lists": ["1,5", "2,6"]}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)


@pytest.mark.parametrize("how", [How.FOLLOW, How.PINNED])
def test_others_have_no_file(tmp_path: Path, how: How) -> None:
    notices(tmp_path).put(Ledger(LAYOUT), msgspec.structs.replace(TOLD, on_move=OnMove(how)))
    assert list(tmp_path.iterdir()) == []


def test_a_new_agent_finds_every_file_there_should_be_and_no_other(tmp_path: Path) -> None:
    made = notices(tmp_path)
    made.put(Ledger(LAYOUT), msgspec.structs.replace(TOLD, process=Process(8, 8)))
    made.resume(Ledger(LAYOUT, [TOLD]))
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["7-3.json"]
    made.drop(TOLD.process)
    made.drop(TOLD.process)
    assert list((tmp_path / "state").iterdir()) == []
    made.remove()
    made.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(StateError, match=r"cannot make .*/state: File exists"):
        notices(tmp_path).put(Ledger(LAYOUT), TOLD)


def test_the_signal_reaches_that_very_process(tmp_path: Path) -> None:
    script = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {1}); print('ready', flush=True); signal.sigwait({1})"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        process = Procfs().process(child.pid)
        wish = OnMove(How.NOTIFY, signal.SIGHUP)
        notices(tmp_path).tell(msgspec.structs.replace(TOLD, process=Process(child.pid, process.start + 1), on_move=wish))
        notices(tmp_path).tell(msgspec.structs.replace(TOLD, process=process))
        assert child.poll() is None
        notices(tmp_path).tell(msgspec.structs.replace(TOLD, process=process, on_move=wish))
        assert child.wait(timeout=20) == 0


def test_who_has_ended_is_told_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    process = Process(child.pid, 1)
    child.wait()
    notices(tmp_path).tell(msgspec.structs.replace(TOLD, process=process, on_move=OnMove(How.NOTIFY, signal.SIGHUP)))


def test_a_directory_that_a_pod_has_led_elsewhere_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "9-9.json").write_text("precious")
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    (mounted / "state").symlink_to(elsewhere)
    made = notices(mounted)
    made.resume(Ledger(LAYOUT))
    made.remove()
    made.put(Ledger(LAYOUT), TOLD)
    assert [path.name for path in elsewhere.iterdir()] == ["9-9.json"]
    assert (mounted / "state" / name_of(TOLD.process)).is_file()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/layout.json").write_text("precious")
    notices(tmp_path).resume(Ledger(LAYOUT))
    notices(tmp_path).remove()
    assert (tmp_path / "state/layout.json").exists()


def test_a_file_that_a_pod_has_led_elsewhere_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "state" / f".{name_of(TOLD.process)}.new").symlink_to(tmp_path / "precious")
    with pytest.raises(StateError, match="cannot write"):
        notices(tmp_path).put(Ledger(LAYOUT), TOLD)
    assert (tmp_path / "precious").read_text() == "precious"


def test_what_is_in_the_way_ends_no_agent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state" / "1-1.json").mkdir(parents=True)
    (tmp_path / "state" / f".{name_of(TOLD.process)}.new").mkdir()
    made = notices(tmp_path)
    made.resume(Ledger(LAYOUT, [TOLD]))
    made.remove()
    assert f"cannot remove {tmp_path}/state/1-1.json" in caplog.text
    assert f"cannot write {tmp_path}/state/{name_of(TOLD.process)}" in caplog.text
