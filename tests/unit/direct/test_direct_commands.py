"""The commands that make, show, change and remove the pools of one host."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmk.isolate import local
from tests.fabricate import fabricate
from tests.topologies import linux
from tests.unit.conftest import Host, running

ISOLATED = "2-3,6-7,10-11,14-15"


@pytest.fixture
def machine(tmp_path: Path) -> Host:
    """Two sockets of four cores, two of each isolated."""
    fabricate(tmp_path / "root", linux(2, 4), isolated=ISOLATED)
    return Host(tmp_path / "conf", tmp_path / "root")


def lists(host: Host) -> dict[str, list[str]]:
    return {name: list(pool["cpuLists"]) for name, pool in json.loads(host.ok("describe"))["pools"].items()}


def state(host: Host) -> dict[str, Any]:
    return dict(local.read_sealed(str(host.directory / "pools.json")))


def rewrite(host: Host, **change: object) -> None:
    (host.directory / "pools.json").write_bytes(local.seal(json.dumps(state(host) | change).encode()))


def essence(host: Host) -> object:
    """Layout, and who holds what."""
    found = state(host)
    return found["saved"], [(task["process"], task["pool"], task["lists"]) for task in found["tasks"]], found["moving"]


def test_init_splits_the_cores(machine: Host) -> None:
    done = machine.run("init", "--num-exclusive-cores=3")
    assert lists(machine) == {"exclusive": ["2,10", "3,11", "6,14"], "shared": ["7,15"], "infra": ["0,1,8,9", "4,5,12,13"]}
    assert done.stderr.startswith("pool exclusive: 2,10 3,11 6,14\npool shared: 7,15\npool infra: 0-1,8-9 4-5,12-13\nWARNING: ")


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--num-exclusive-cores=-1",), {"exclusive": 3, "shared": 1}),
        (("--num-exclusive-cores=2", "--socket-id=1", "--num-shared-cores=0"), {"exclusive": 2}),
        (("--num-exclusive-cores=1", "--excl-non-isolcpus=0,4-5"), {"exclusive": 1, "exclusive-non-isolcpus": 3}),
        (("--num-dp-cores=1", "--num-cp-cores=2"), {"exclusive": 1, "shared": 2}),
        (("--num-exclusive-cores=2", "--exclusive-mode=spread", "--reserved-cpus=2"), {"exclusive": 2}),
    ],
)
def test_init_takes_what_cmk_and_kcm_took(machine: Host, args: tuple[str, ...], expected: dict[str, int]) -> None:
    machine.ok("init", *args)
    found = lists(machine)
    assert {name: len(found[name]) for name in expected} == expected


def test_init_twice_is_init_once(machine: Host) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    again = machine.run("init", "--num-exclusive-cores=3")
    assert (again.returncode, again.stderr.split("(")[0].split(":")[0]) == (0, f"{machine.directory} has these pools already")


def test_init_does_not_move_pools(machine: Host) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    other = machine.run("init", "--num-exclusive-cores=2")
    assert other.returncode == 1
    assert other.stderr.endswith("to change them: cmk reconfigure\n")
    assert len(lists(machine)["exclusive"]) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--num-exclusive-cores=9",),
            "needs 10 isolated cores (exclusive 9 + shared 1), has 4; ask for fewer cores",
        ),
        (
            ("--excl-non-isolcpus=2", "--num-exclusive-cores=0"),
            "cores 2 of pool exclusive-non-isolcpus are isolated (isolcpus): ",
        ),
        (("--excl-non-isolcpus=9",), "pool exclusive-non-isolcpus asks for cores 9, which do not exist; this node has cores 0-7"),
        (("--excl-non-isolcpus=a",), "--excl-non-isolcpus=a: 'a' in CPU list 'a' is not a CPU, range or group"),
        (("--num-exclusive-cores=-2",), "--num-exclusive-cores=-2: write a number of cores, or -1 for all that remain"),
        (("--num-exclusive-cores=-1", "--socket-id=0"), "--num-exclusive-cores=-1 and --socket-id=0 exclude each other"),
        (
            ("--num-exclusive-cores=1", "--socket-id=7"),
            "pool exclusive asks for 1 isolated cores on socket 7, which has 0 free; ",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_line_and_leaves_nothing(machine: Host, args: tuple[str, ...], message: str) -> None:
    done = machine.run("init", *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"cmk: {message}")
    assert not machine.directory.exists()


def test_isolcpus_is_read_from_the_named_procfs(tmp_path: Path) -> None:
    fabricate(tmp_path / "root", linux(1, 4), isolated=None, cmdline="isolcpus=1,5")
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=1", "--num-shared-cores=0", CMK_PROC_FS=str(tmp_path / "root/proc"))
    assert lists(host)["exclusive"] == ["1,5"]


def test_what_is_no_procfs_is_told(tmp_path: Path) -> None:
    done = Host(tmp_path / "conf").run("init", CMK_PROC_FS=str(tmp_path))
    assert (done.returncode, done.stderr.startswith(f"cmk: CMK_PROC_FS={tmp_path} is not a procfs: ")) == (1, True)


def test_a_table_for_people(machine: Host) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    assert machine.ok("describe", "--output=table").splitlines() == [
        "POOL       SOCKET 0    SOCKET 1",
        "exclusive  2,10: free  6,14: free",
        "           3,11: free",
        "infra      0-1,8-9: -  4-5,12-13: -",
        "shared                 7,15: -",
    ]


def test_the_table_names_who_sits_where(host: Host) -> None:
    with host.isolated("--pool=exclusive") as process:
        assert f": {process.pid} sh" in host.ok("describe", "-o", "table")


def test_the_node_report_has_topology_and_checks(machine: Host) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    report = json.loads(machine.ok("node-report"))
    assert report["checks"] == {"configDirectory": {"errors": [], "ok": True}}
    assert report["description"]["path"] == str(machine.directory)
    socket = report["topology"]["sockets"]["1"]
    assert socket["id"] == 1
    assert socket["cores"][2] == {"cpus": [{"id": 6, "isolated": True}, {"id": 14, "isolated": True}], "id": 6}


def test_the_node_report_names_contradictions(machine: Host, tmp_path: Path) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    saved = state(machine)["saved"]
    saved["layout"]["pools"]["shared"]["lists"][0]["cpus"] = [3, 99]
    rewrite(machine, saved=saved)
    assert json.loads(machine.ok("node-report"))["checks"]["configDirectory"] == {
        "errors": [
            "CPU list overlap detected in exclusive:3,11 and shared:3,99 (in both: [3])",
            "CPU list shared:3,99 has CPUs that are not online: 99",
        ],
        "ok": False,
    }


def test_the_node_report_names_a_machine_that_has_changed(machine: Host, tmp_path: Path) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    (tmp_path / "root/sys/devices/system/cpu/online").write_text("0-14\n")
    errors = json.loads(machine.ok("node-report"))["checks"]["configDirectory"]["errors"]
    assert errors[0] == "15 CPUs, layout made for 16: CPUs 15 are gone or offline"


def test_reconcile_takes_back_what_the_dead_held_and_tells(host: Host) -> None:
    with host.isolated("--pool=exclusive") as process:
        assert json.loads(host.ok("reconcile")) == {"mismatchedCpuMasks": [], "reclaimedCpuLists": []}
    (core,) = lists(host)["exclusive"]
    expected = {"mismatchedCpuMasks": [], "reclaimedCpuLists": [{"cpus": core, "pid": process.pid, "pool": "exclusive"}]}
    assert json.loads(host.ok("reconcile", "--publish")) == expected
    assert json.loads(host.ok("reconcile", "--interval=0"))["reclaimedCpuLists"] == []


@pytest.mark.parametrize("command", ["reconcile", "node-report"])
def test_an_interval_goes_on_until_it_is_stopped(host: Host, command: str) -> None:
    with running(host, host.command(command, "--interval=1")) as process:
        assert process.stdout is not None
        decoder, text, found = json.JSONDecoder(), "", 0
        while found < 2:
            line = process.stdout.readline()
            assert line, "it has ended"
            text += line
            try:
                _, end = decoder.raw_decode(text)
            except ValueError:
                continue
            text, found = text[end:].lstrip(), found + 1
        assert process.poll() is None


def test_reconcile_tells_who_left_its_cpus_and_reaffinitize_puts_it_back(host: Host) -> None:
    everything = os.sched_getaffinity(0)
    with host.isolated("--pool=exclusive") as process:
        own = os.sched_getaffinity(process.pid)
        os.sched_setaffinity(process.pid, everything)
        (found,) = json.loads(host.ok("reconcile"))["mismatchedCpuMasks"]
        assert (found["pid"], found["pool"]) == (process.pid, "exclusive")
        host.ok("reaffinitize")
        assert os.sched_getaffinity(process.pid) == own


def test_reconfigure_moves_a_task_with_its_pool(host: Host) -> None:
    with host.isolated("--pool=infra") as process:
        before = os.sched_getaffinity(process.pid)
        host.ok("reconfigure", "--num-exclusive-cores=0", "--num-shared-cores=0")
        assert os.sched_getaffinity(process.pid) > before
        assert list(lists(host)) == ["infra"]


def test_reconfigure_keeps_an_exclusive_task_on_its_core(host: Host) -> None:
    with host.isolated("--pool=exclusive") as process:
        before = os.sched_getaffinity(process.pid)
        host.ok("reconfigure", "--num-exclusive-cores=1", "--num-shared-cores=0")
        assert os.sched_getaffinity(process.pid) == before


def test_reconfigure_tells_who_wants_to_be_told(pair: tuple[Host, int, int]) -> None:
    host, first, second = pair
    line = "trap 'cat $CMK_STATE; echo' HUP; cat $CMK_STATE; echo; while :; do sleep 0.1; done"
    command = host.command("isolate", "--pool=exclusive", "--on-move=notify:HUP", "sh", "--", "-c", line)
    with running(host, command) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"generation": 1, "cpus": str(first), "lists": [str(first)]}
        host.ok("reconfigure", "--num-exclusive-cores=1", "--num-shared-cores=0", f"--reserved-cpus={first}")
        assert json.loads(process.stdout.readline()) == {"generation": 2, "cpus": str(second), "lists": [str(second)]}
    host.ok("reconcile")
    assert list((host.directory / "state").iterdir()) == []


def test_reconfigure_moves_whom_a_task_has_started_too(pair: tuple[Host, int, int]) -> None:
    host, first, second = pair
    command = host.command("isolate", "--pool=exclusive", "sh", "--", "-c", "sleep 60 & echo $!; wait")
    with running(host, command) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        host.ok("reconfigure", "--num-exclusive-cores=1", "--num-shared-cores=0", f"--reserved-cpus={first}")
        assert (os.sched_getaffinity(process.pid), os.sched_getaffinity(child)) == ({second}, {second})


def test_reconfigure_leaves_a_pinned_task_where_it_is(pair: tuple[Host, int, int]) -> None:
    host, first, _ = pair
    with host.isolated("--pool=exclusive", "--on-move=pinned"):
        before = essence(host)
        done = host.run("reconfigure", "--num-exclusive-cores=1", "--num-shared-cores=0", f"--reserved-cpus={first}")
        assert (done.returncode, "does not move (cmk.intel.com/on-move: pinned)" in done.stderr) == (1, True)
        assert essence(host) == before


def test_reconfigure_refuses_to_take_a_core_from_its_owner(host: Host) -> None:
    with host.isolated("--pool=exclusive") as process:
        before = essence(host)
        done = host.run("reconfigure", "--num-exclusive-cores=0", "--num-shared-cores=0")
        assert done.returncode == 1
        assert done.stderr.startswith(f"cmk: pool exclusive is removed, but process {process.pid} runs on its CPUs ")
        assert essence(host) == before


def test_uninstall_waits_for_nobody_but_takes_from_nobody(host: Host, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/cmk").write_text("")
    with host.isolated("--pool=infra") as process:
        done = host.run("uninstall", f"--install-dir={tmp_path}/bin")
        assert (done.returncode, str(process.pid) in done.stderr) == (1, True)
        assert (host.directory / "pools.json").exists()
    host.ok("uninstall", f"--install-dir={tmp_path}/bin")
    assert not host.directory.exists()
    assert not (tmp_path / "bin/cmk").exists()


def test_uninstall_leaves_other_files_alone(host: Host) -> None:
    (host.directory / "notes").write_text("mine")
    host.ok("uninstall")
    assert [path.name for path in host.directory.iterdir()] == ["notes"]


@pytest.mark.parametrize("command", ["init", "reconfigure", "uninstall", "reaffinitize"])
def test_nothing_is_done_beside_an_agent(host: Host, command: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.bind(str(host.directory / "agent.sock"))
        agent.listen()
        done = host.run(command)
    assert done.returncode == 1
    assert done.stderr.startswith(f"cmk: an agent serves this host at {host.directory}/agent.sock: ")


def test_an_agent_whose_queue_is_full_is_one(host: Host) -> None:
    path = str(host.directory / "agent.sock")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other,
    ):
        agent.bind(path)
        agent.listen(0)
        other.connect(path)
        assert "an agent serves this host" in host.run("init").stderr
        done = host.run("isolate", "--pool=infra", "true", CMK_LOCK_TIMEOUT="0.1")
    assert (done.returncode, "no cmk agent answered" in done.stderr) == (75, True)


def test_without_pools_or_agent_describe_says_how_to_begin(tmp_path: Path) -> None:
    done = Host(tmp_path / "none").run("describe")
    assert done.returncode == 75
    assert done.stderr.startswith(f"cmk: no cmk agent answered at {tmp_path}/none/agent.sock, /run/cmk/agent.sock within 0.5 s")


@pytest.mark.parametrize("command", ["init", "reconfigure"])
@pytest.mark.parametrize("cpus", ["a-b", "99999999"])
def test_reserved_cpus_that_cannot_be_read_change_nothing(machine: Host, command: str, cpus: str) -> None:
    if command == "reconfigure":
        machine.ok("init", "--num-exclusive-cores=1", "--num-shared-cores=0")
    before = [path.read_bytes() for path in sorted(machine.directory.rglob("*.json"))]
    done = machine.run(command, "--num-exclusive-cores=1", "--num-shared-cores=0", f"--reserved-cpus={cpus}")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert f"--reserved-cpus={cpus}: " in done.stderr
    assert [path.read_bytes() for path in sorted(machine.directory.rglob("*.json"))] == before


def test_kcm_speaks_its_own_words(tmp_path: Path) -> None:
    fabricate(tmp_path / "root", linux(1, 4))
    kcm = Host(tmp_path / "conf", tmp_path / "root", program="/usr/bin/kcm")
    kcm.ok("init", "--num-dp-cores=2", "--num-cp-cores=1")
    pools = json.loads(kcm.ok("describe"))["pools"]
    assert {name: (pool["name"], pool["exclusive"]) for name, pool in pools.items()} == {
        "dataplane": ("dataplane", True),
        "controlplane": ("controlplane", False),
        "infra": ("infra", False),
    }
    assert "CMK_CPUS_ASSIGNED=0,4" in kcm.ok("isolate", "--pool=dataplane", "--no-affinity", "env").splitlines()
    assert "KCM_CPUS_ASSIGNED=0,4" in kcm.ok("isolate", "--pool=dataplane", "--no-affinity", "env").splitlines()


def test_a_pipe_that_nobody_reads_is_no_traceback(machine: Host) -> None:
    machine.ok("init", "--num-exclusive-cores=3")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        machine.command("node-report"), env=machine.environment(), stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr


def test_install_puts_the_launcher_in_place(tmp_path: Path) -> None:
    (tmp_path / "launcher").write_text("static")
    script = "import sys; from cmk.cli import app; app.app(sys.argv[1:])"
    args = ["install", f"--install-dir={tmp_path}/opt/bin"]
    done = subprocess.run(
        [sys.executable, "-c", script, *args], env={"CMK_LAUNCHER": str(tmp_path / "launcher")}, capture_output=True, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "opt/bin/cmk").read_text() == "static"
    assert (tmp_path / "opt/bin/cmk").stat().st_mode & 0o777 == 0o755


def test_a_change_that_the_kernel_refuses_changes_nothing(tmp_path: Path) -> None:
    first = min(os.sched_getaffinity(0))
    fabricate(tmp_path / "root", {str(cpu): 0 for cpu in (first, 7000, 7001)})
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=1", "--num-shared-cores=0")
    with host.isolated("--pool=exclusive") as process:
        before = essence(host)
        done = host.run("reconfigure", "--num-exclusive-cores=1", "--num-shared-cores=0", f"--reserved-cpus={first}")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"process {process.pid}, thread {process.pid}: CPUs 7000 refused by the kernel" in done.stderr
        assert done.stderr.endswith("nothing was changed\n")
        assert essence(host) == before
        assert os.sched_getaffinity(process.pid) == {first}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Host, int, int]:
    """Two exclusive cores, both of this machine."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    fabricate(tmp_path / "root", {str(first): 0, str(second): 0, "7000": 0})
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=2", "--num-shared-cores=0")
    return host, first, second


def test_a_change_that_was_killed_leaves_old_and_new_list_to_its_owner(pair: tuple[Host, int, int]) -> None:
    host, first, second = pair
    with host.isolated("--pool=exclusive") as process:
        # Killed between the two writes: the process is on its way from the first core to the second.
        rewrite(host, moving={str(process.pid): [str(second)]})
        os.sched_setaffinity(process.pid, {second})
        done = host.run("isolate", "--pool=exclusive", "true")
        assert (done.returncode, done.stderr) == (75, "cmk: Not enough free cpu lists in pool exclusive: 1 asked, 0 of 2 free\n")
        host.ok("reaffinitize")
        assert os.sched_getaffinity(process.pid) == {first}
        assert state(host)["moving"] == {}
        assert host.run("isolate", "--pool=exclusive", "true").returncode == 0


def test_the_end_of_its_owner_ends_an_interrupted_change(pair: tuple[Host, int, int]) -> None:
    host, _, second = pair
    with host.isolated("--pool=exclusive") as process:
        rewrite(host, moving={str(process.pid): [str(second)]})
    assert host.run("isolate", "--pool=exclusive", "true", CMK_NUM_CORES="2").returncode == 0
    assert state(host)["moving"] == {}
