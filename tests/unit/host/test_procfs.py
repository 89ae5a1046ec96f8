import os
import subprocess
import threading
from pathlib import Path

import pytest

from cmk.host.procfs import Procfs
from cmk.model.tasks import Process


def test_start_time_survives_any_command_name(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    fields = ["S", *(str(number) for number in range(4, 53))]
    (tmp_path / "42/stat").write_text("42 (a) b (c) " + " ".join(fields) + "\n")
    assert Procfs(tmp_path).process(42) == Process(42, 22)


@pytest.mark.parametrize(
    ("state", "threads", "alive"),
    [("R", 1, True), ("S", 2, True), ("Z", 1, False), ("Z", 2, True), ("X", 1, False), ("X", 2, False)],
)
def test_a_zombie_is_not_alive_unless_only_its_first_thread_has_ended(
    tmp_path: Path, state: str, threads: int, alive: bool
) -> None:
    (tmp_path / "42").mkdir()
    fields = [str(number) for number in range(4, 53)]
    fields[16] = str(threads)
    (tmp_path / "42/stat").write_text(f"42 (x) {state} " + " ".join(fields))
    assert Procfs(tmp_path).is_alive(Process(42, 22)) is alive


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/stat").write_text("42 (x) S " + " ".join(str(number) for number in range(4, 53)))
    assert not Procfs(tmp_path).is_alive(Process(42, 21))


@pytest.mark.parametrize(
    ("line", "expected"), [("NSpid:\t42\t1", True), ("NSpid:\t1", False), ("NSpid:\t42\t7", False), ("", False)]
)
def test_the_init_of_a_pid_namespace_below_ours(tmp_path: Path, line: str, expected: bool) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/status").write_text(f"Name:\tx\n{line}\n")
    assert Procfs(tmp_path).is_namespace_init(42) is expected


def test_reads_this_process() -> None:
    procfs = Procfs()
    assert procfs.is_alive(procfs.process(os.getpid()))
    assert os.getpid() in procfs.pids()
    assert os.getpid() in procfs.threads(os.getpid())
    assert procfs.boot_id() == procfs.boot_id() != ""


@pytest.mark.parametrize("call", ["process", "pod_container", "threads", "is_namespace_init"])
def test_a_process_that_has_ended_is_a_lookup_error(tmp_path: Path, call: str) -> None:
    with pytest.raises(ProcessLookupError):
        getattr(Procfs(tmp_path), call)(42)


@pytest.mark.parametrize(("state", "flags", "runs"), [("S", 0, True), ("R", 0x4, False), ("Z", 0x4, False), ("X", 0, False)])
def test_a_first_thread_that_is_about_to_end_does_not_run(tmp_path: Path, state: str, flags: int, runs: bool) -> None:
    """cgroup v1 says that it is in no pod already, and it has started its last child."""
    (tmp_path / "42").mkdir()
    (tmp_path / "42/stat").write_text(f"42 (x) {state} 1 1 1 0 -1 {flags}" + " 0" * 12 + " 5 0\n")
    assert Procfs(tmp_path).first_thread_runs(42) is runs


def test_a_process_without_threads_has_ended(tmp_path: Path) -> None:
    """What a directory that was opened before its process ended lists."""
    (tmp_path / "42/task").mkdir(parents=True)
    with pytest.raises(ProcessLookupError):
        Procfs(tmp_path).threads(42)


def test_ancestors_end_with_init_or_at_the_number_asked_for(tmp_path: Path) -> None:
    for pid, parent in {1: 0, 7: 1, 8: 7, 9: 8}.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / f"{pid}/stat").write_text(f"{pid} (x) S {parent}" + " 0" * 17 + " 5 0\n")
    assert Procfs(tmp_path).ancestors(9, 100) == [Process(8, 5), Process(7, 5), Process(1, 5)]
    assert Procfs(tmp_path).ancestors(9, 2) == [Process(8, 5), Process(7, 5)]


def test_no_name_of_a_process_is_taken_for_a_line_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    for end in ("\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"):
        name = f"Name:\ta{end}NSpid:\t2 1{end}Uid:\t0\t0\t0\t0\n"
        (tmp_path / "42/status").write_text(f"{name}Uid:\t5\t6\t5\t5\nGid:\t7\t8\t7\t7\nNSpid:\t42\n", newline="")
        (tmp_path / "42/cgroup").write_text(
            f"0::/a{end}1:x:/kubepods/pod0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f/{'ab' * 32}\n", newline=""
        )
        assert not Procfs(tmp_path).is_namespace_init(42)
        assert Procfs(tmp_path).credentials(42) == (6, 8)
        (tmp_path / "42/stat").write_text("42 (x) S 1 1 1 0 -1 0" + " 0" * 12 + " 5 0\n")
        assert Procfs(tmp_path).pod_container(42).pod == "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f"


def test_threads_are_counted_by_links_and_listed_when_there_are_several() -> None:
    """As the kernel has it: of a process with one thread its own id, else whatever is listed."""
    procfs, ready, done = Procfs(), threading.Barrier(4), threading.Event()
    with subprocess.Popen(["sleep", "60"]) as process:
        assert procfs.threads(process.pid) == [process.pid]
        process.kill()
    threads = [threading.Thread(target=lambda: (ready.wait(), done.wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    expected = {os.getpid(), *(thread.native_id for thread in threads)}
    assert expected <= set(procfs.threads(os.getpid()))
    done.set()
    for thread in threads:
        thread.join()
