"""``cmk isolate`` without an agent."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cmk.isolate import local
from cmk.isolate.say import Failure
from tests.fabricate import fabricate
from tests.topologies import linux
from tests.unit.conftest import Host, until

ENV = ("isolate", "--pool=exclusive", "--no-affinity", "env")


def variables(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CMK_CPUS"))


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has this very file open."""
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if file.samefile(path):
                return True
    return False


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Two sockets of four cores with two threads."""
    root = tmp_path_factory.mktemp("big")
    fabricate(root, linux(2, 4))
    host = Host(root / "conf", root)
    host.ok("init", "--num-exclusive-cores=3", "--exclusive-mode=spread", "--num-shared-cores=2", "--shared-mode=spread")
    return host


@pytest.fixture
def big(tmp_path: Path, made: Host) -> Host:
    """The same, for one test."""
    return Host(Path(shutil.copytree(made.directory, tmp_path / "conf")), made.root)


def test_a_process_runs_on_its_core_and_nowhere_else(host: Host) -> None:
    shown = json.loads(host.ok("describe"))
    (core,) = shown["pools"]["exclusive"]["cpuLists"]
    with host.isolated("--pool=exclusive") as process:
        assert os.sched_getaffinity(process.pid) == {int(cpu) for cpu in core.split(",")}
        shown = json.loads(host.ok("describe"))
        assert shown["pools"]["exclusive"]["cpuLists"][core]["tasks"] == [process.pid]
    assert json.loads(host.ok("describe"))["pools"]["exclusive"]["cpuLists"][core]["tasks"] == []


def test_a_taken_core_is_waited_for_and_then_refused(host: Host) -> None:
    with host.isolated("--pool=exclusive"):
        done = host.run("isolate", "--pool=exclusive", "true", CMK_LOCK_TIMEOUT="0.2")
    assert (done.returncode, done.stderr) == (75, "cmk: Not enough free cpu lists in pool exclusive: 1 asked, 0 of 1 free\n")


def test_who_waits_gets_the_core_when_its_owner_is_killed(host: Host) -> None:
    with host.isolated("--pool=exclusive") as owner:
        waiting = subprocess.Popen(
            host.command("isolate", "--pool=exclusive", "echo", "mine"),
            env=host.environment(CMK_LOCK_TIMEOUT="30"),
            stdout=subprocess.PIPE,
            text=True,
        )
        lock = host.directory / local.LOCK
        until(lambda: lock.read_text() == f"{waiting.pid}\n")  # it has looked, and found nothing
        assert waiting.poll() is None
        owner.kill()
        owner.wait()
        assert waiting.communicate(timeout=30)[0] == "mine\n"


def test_the_exit_code_and_arguments_are_the_commands(host: Host) -> None:
    done = host.run("isolate", "--pool=infra", "sh", "--", "-c", "echo $#; exit 3", "x", "--pool=y")
    assert (done.returncode, done.stdout) == (3, "1\n")


def test_a_double_dash_that_is_not_directly_after_the_command_is_the_commands(host: Host) -> None:
    assert host.ok("isolate", "--pool=infra", "printf", "[%s]", "a", "--", "--pool=y") == "[a][--][--pool=y]"


def test_wait_keeps_a_parent_and_the_child_holds_the_core(host: Host) -> None:
    done = host.run("isolate", "--pool=exclusive", "--wait", "sh", "--", "-c", "kill -TERM $$")
    assert done.returncode == 128 + 15


def test_the_workload_sees_its_cpus(big: Host) -> None:
    assert variables(big.ok(*ENV, CMK_NUM_CORES="2")) == {
        "CMK_CPUS_ASSIGNED": "0,8,1,9",
        "CMK_CPUS_ASSIGNED_MASK": "303",
        "CMK_CPUS_SHARED": "2,5,10,13",
        "CMK_CPUS_INFRA": "3,6,7,11,14,15",
    }


@pytest.mark.parametrize(("args", "assigned"), [(("--socket-id=1",), "4,12"), (("--socket-id=0",), "0,8"), ((), "0,8")])
def test_a_socket_may_be_asked_for(big: Host, args: tuple[str, ...], assigned: str) -> None:
    assert variables(big.ok(*ENV[:3], *args, "env"))["CMK_CPUS_ASSIGNED"] == assigned


@pytest.mark.parametrize(
    ("pool", "variables", "code", "message"),
    [
        ("gold", {}, 78, "Requested pool gold does not exist; this node has exclusive, infra, shared"),
        ("exclusive", {"CMK_NUM_CORES": "9"}, 78, "Not enough cpu lists in pool exclusive: 9 asked, 3 exist"),
        ("exclusive", {"CMK_NUM_CORES": "0"}, 78, 'CMK_NUM_CORES is "0": it must be a whole number of CPU lists, 1 to 65536'),
        (
            "exclusive",
            {"CMK_PROC_FS": "/nowhere"},
            78,
            "cannot read /nowhere/sys/kernel/random/boot_id: No such file or directory",
        ),
    ],
)
def test_refusals(big: Host, pool: str, variables: dict[str, str], code: int, message: str) -> None:
    done = big.run("isolate", f"--pool={pool}", "true", **variables)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"cmk: {message}\n")


def test_cpus_that_this_process_may_not_use_are_refused(tmp_path: Path) -> None:
    fabricate(tmp_path / "root", {str(cpu): 0 for cpu in (7000, 7001, 7002)})
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=1")
    done = host.run("isolate", "--pool=exclusive", "true")
    assert done.returncode == 78
    assert done.stderr == "cmk: CPUs 7000 refused by the kernel (Invalid argument): outside this process's cpuset?\n"
    assert json.loads(host.ok("describe"))["pools"]["exclusive"]["cpuLists"]["7000"]["tasks"] == []


def test_what_kcm_called_the_pools_still_works(big: Host) -> None:
    assert variables(big.ok("isolate", "--pool=dataplane", "--no-affinity", "env"))["CMK_CPUS_ASSIGNED"] == "0,8"


def test_a_held_lock_names_its_holder(host: Host) -> None:
    lock = host.directory / local.LOCK
    with lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lock.write_text(f"{os.getpid()}\n")
        done = host.run("isolate", "--pool=infra", "true", CMK_LOCK_TIMEOUT="0.2")
    assert done.returncode == 75
    assert done.stderr == f"cmk: {lock} is held by process {os.getpid()}; gave up after CMK_LOCK_TIMEOUT\n"


def test_a_lock_that_was_removed_while_one_waited_for_it_lets_nobody_in(host: Host) -> None:
    """uninstall and init in between: whoever waited goes on to the lock that is there now."""
    lock = host.directory / local.LOCK
    with lock.open("r+") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        waiting = subprocess.Popen(
            host.command("isolate", "--pool=infra", "true"),
            env=host.environment(CMK_LOCK_TIMEOUT="60"),
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: has_open(waiting.pid, lock))
        lock.unlink()
        with lock.open("w") as new:
            fcntl.flock(new, fcntl.LOCK_EX)
            fcntl.flock(old, fcntl.LOCK_UN)
            until(lambda: has_open(waiting.pid, lock))
            assert waiting.poll() is None
    assert (waiting.communicate(timeout=60)[1], waiting.returncode) == ("", 0)


def test_nobody_but_its_owner_can_open_the_lock(host: Host) -> None:
    lock = host.directory / local.LOCK
    assert lock.stat().st_mode & 0o777 == 0o600
    lock.chmod(0o644)  # of an older version: who has it open now could hold it for ever
    with lock.open() as old:
        host.ok("isolate", "--pool=infra", "true")
        assert (lock.stat().st_mode & 0o777, os.fstat(old.fileno()).st_nlink) == (0o600, 0)


def test_a_link_is_no_lock(host: Host) -> None:
    lock = host.directory / local.LOCK
    lock.unlink()
    lock.symlink_to(host.directory / "elsewhere")
    done = host.run("isolate", "--pool=infra", "true")
    assert (done.returncode, done.stderr) == (78, f"cmk: cannot open {lock}: Too many levels of symbolic links\n")
    assert not (host.directory / "elsewhere").exists()


def rewrite(host: Host, change: dict[str, object]) -> None:
    path = host.directory / local.STATE
    path.write_bytes(local.seal(json.dumps(local.read_sealed(str(path)) | change).encode()))


def test_tasks_of_another_boot_are_void(host: Host) -> None:
    with host.isolated("--pool=exclusive"):
        rewrite(host, {"boot": "another"})
        assert host.run("isolate", "--pool=exclusive", "true").returncode == 0


def test_a_pid_that_was_used_again_is_another_process(host: Host) -> None:
    with host.isolated("--pool=exclusive"):
        (task,) = json.loads((host.directory / local.STATE).read_text())["tasks"]
        task["process"]["start"] += 1
        rewrite(host, {"tasks": [task]})
        assert host.run("isolate", "--pool=exclusive", "true").returncode == 0


def test_a_state_that_an_editor_has_laid_out_is_read(host: Host) -> None:
    path = host.directory / local.STATE
    path.write_text(f"\n{json.dumps(json.loads(path.read_text()), indent=2)}\n")
    assert host.run("isolate", "--pool=infra", "true").returncode == 0


def test_what_else_is_in_the_state_stays_as_it_is(host: Host) -> None:
    others = {"odd": [1.5, -1e300, 1 << 70, True, None, 'ä\U0001f600"\\\n\0', {}, []]}
    rewrite(host, others)
    host.ok("isolate", "--pool=infra", "true")
    assert local.read_sealed(str(host.directory / local.STATE)).items() >= others.items()


@pytest.mark.parametrize(
    "text", ["", "x", "{", "[]", "{}", '{"saved": 1}', "{} {}", "[" * 100000, '{"saved": NaN}', '{"saved": "\\x"}']
)
def test_a_damaged_state_starts_nothing(host: Host, text: str) -> None:
    (host.directory / local.STATE).write_text(text)
    done = host.run("isolate", "--pool=infra", "true")
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)
    assert "cmk reconcile makes it anew" in done.stderr


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("saved", None),
        ("moving", []),
        ("tasks", {"a": 1}),
        ("saved", {"layout": {"pools": {"infra": []}}}),
        ("saved", {"layout": {"pools": {"infra": {"exclusive": False, "lists": [{"cpus": [-1], "socket": 0}]}}}}),
        ("saved", {"layout": {"pools": {"infra": {"exclusive": False, "lists": [{"cpus": [10**30], "socket": 0}]}}}}),
        ("saved", {"layout": {"pools": {"infra": {"exclusive": False, "lists": [{"cpus": "0", "socket": 0}]}}}}),
    ],
)
def test_a_state_of_another_shape_starts_nothing(host: Host, field: str, value: object) -> None:
    rewrite(host, {field: value})
    done = host.run("isolate", "--pool=infra", "true")
    assert (done.returncode, len(done.stderr.splitlines())) == (78, 1)
    assert "cmk reconcile makes it anew" in done.stderr


def test_who_cannot_be_written_down_does_not_stay_on_the_core(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before, meanwhile = os.sched_getaffinity(0), []

    def write(*_: object) -> None:
        meanwhile.append(os.sched_getaffinity(0))
        raise Failure(75, "cannot write")

    monkeypatch.setattr(local, "write", write)
    try:
        with pytest.raises(Failure, match="cannot write"):
            local.isolate(str(host.directory), "exclusive", 1, -1, pin=True, seconds=0, procfs="/proc")
        assert (os.sched_getaffinity(0), len(meanwhile[0])) == (before, 1)
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("name", [local.STATE, local.LAYOUT])
def test_a_fifo_in_place_of_a_file_holds_nobody(host: Host, name: str) -> None:
    (host.directory / name).unlink()
    os.mkfifo(host.directory / name)
    done = host.run("isolate", "--pool=exclusive", "true")
    assert (done.returncode, done.stdout) == ((78, "") if name == local.STATE else (0, ""))


def test_many_at_once_never_share_a_core(host: Host) -> None:
    """Each writes its pid while it holds the core, and looks whether another does."""
    inside = host.directory.parent / "inside"
    script = f"set -C; echo $$ > {inside} || {{ echo overlap; exit 1; }}; sleep 0.01; rm {inside}"
    running = [
        subprocess.Popen(
            host.command("isolate", "--pool=exclusive", "sh", "--", "-c", script),
            env=host.environment(CMK_LOCK_TIMEOUT="60"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(12)
    ]
    assert [(process.communicate(timeout=90)[0], process.returncode) for process in running] == [("", 0)] * 12


def test_a_kill_at_any_moment_leaves_the_core_to_the_next(host: Host) -> None:
    for step in range(12):
        process = subprocess.Popen(
            host.command("isolate", "--pool=exclusive", "sleep", "60"), env=host.environment(), stderr=subprocess.DEVNULL
        )
        time.sleep(step * 0.01)
        process.kill()
        process.wait()
        assert host.run("isolate", "--pool=exclusive", "true", CMK_LOCK_TIMEOUT="5").returncode == 0


def test_it_imports_nothing_heavy() -> None:
    script = (
        "import sys; before = set(sys.modules); import cmk.isolate.launch, cmk.isolate.local; "
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('cmk.isolate')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, 'image'); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) <= {"cmk", "cmk.model", "cmk.model.choice", "cmk.model.errors", "_json", "_socket", "fcntl"}


class _OtherPython:
    """A Python whose json has an extension module of another shape."""

    make_encoder = make_scanner = staticmethod(lambda only_argument: only_argument)


@pytest.mark.parametrize("module", [local._json, None, _OtherPython()])
def test_json_is_read_and_written_by_whatever_module_a_python_has(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"tasks": [{"pid": 4, "start": 2**40}], "saved": {"é": [None, True, -1.5]}, "boot": 'a"b\\c'}
    monkeypatch.setattr(local, "_json", module)
    assert local.encode(content) == json.dumps(content, separators=(",", ":"))
    assert local._decode(json.dumps(content)) == content


@pytest.mark.parametrize("kind", ["fifo", "link", "file"])
def test_what_a_writer_has_left_that_was_killed_is_in_nobody_s_way(tmp_path: Path, kind: str) -> None:
    """Perhaps as a file of another user's; somebody may have put anything there."""
    left = tmp_path / ".pools.json.new"
    if kind == "fifo":
        os.mkfifo(left)
    elif kind == "link":
        left.symlink_to("/nowhere/else")
    else:
        left.write_text("half of a very long file")
    local.write(str(tmp_path / "pools.json"), b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["pools.json"]
    assert (tmp_path / "pools.json").read_text() == "{}"
