"""Directories that kcm, CMK and StarlingX left behind, taken over by ``cmk init``."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fabricate import fabricate
from tests.topologies import linux
from tests.unit.conftest import Host


def tree(directory: Path, pools: dict[str, tuple[str, dict[str, str]]]) -> None:
    """``pools`` maps a pool to its ``exclusive`` file and to the ``tasks`` file of every list."""
    directory.mkdir()
    (directory / "lock").touch()
    for name, (exclusive, lists) in pools.items():
        for path, tasks in lists.items():
            made = directory / "pools" / name / path
            made.mkdir(parents=True)
            (made / "tasks").write_text(tasks)
        (directory / "pools" / name).mkdir(parents=True, exist_ok=True)
        (directory / "pools" / name / "exclusive").write_text(exclusive)


TREES = {
    "kcm 0.6": {
        "dataplane": ("1", {"4,12": "", "5,13": "", "6,14": "", "7,15": ""}),
        "controlplane": ("0", {"3,11": ""}),
        "infra": ("0", {"0-2,8-10": ""}),
    },
    "CMK 1.0": {
        "dataplane": ("1", {"3,11": "", "4,12": "", "5,13": "", "6,14": ""}),
        "controlplane": ("0", {"7,15": ""}),
        "infra": ("0", {"0,8,1,9,2,10": ""}),
    },
    "CMK 1.1": {
        "dataplane": ("1", {"0/3,11": "", "0/4,12": "", "0/5,13": "", "0/6,14": ""}),
        "controlplane": ("0", {"0/7,15": ""}),
        "infra": ("0", {"0/0,1,2,8,9,10": ""}),
    },
    "CMK 1.4.1": {
        "exclusive": ("1", {"0/3,11": "", "0/4,12": "", "0/5,13": ""}),
        "exclusive-non-isolcpus": ("1", {"0/6,14": ""}),
        "shared": ("0", {"0/7,15": ""}),
        "infra": ("0", {"0/0,1,2,8,9,10": ""}),
    },
    "StarlingX": {
        "exclusive": ("1", {"0/1,9": "", "0/2,10": "", "0/3,11": "", "0/4,12": "", "0/5,13": "", "0/6,14": ""}),
        "shared": ("0", {"0/7,15": ""}),
        "infra": ("0", {"0/0,8": ""}),
    },
}
EXCLUSIVE = {"kcm 0.6": 4, "CMK 1.0": 4, "CMK 1.1": 4, "CMK 1.4.1": 3, "StarlingX": 6}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    fabricate(tmp_path / "root", linux(1, 8))
    return Host(tmp_path / "conf", tmp_path / "root")


@pytest.mark.parametrize("name", TREES)
def test_every_shape_of_tree_is_taken_over(host: Host, name: str) -> None:
    tree(host.directory, TREES[name])
    done = host.run("init")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"and 0 tasks; the old state is kept in {host.directory}/pools.old\n" in done.stderr
    pools = json.loads(host.ok("describe"))["pools"]
    assert len(pools["exclusive"]["cpuLists"]) == EXCLUSIVE[name]
    assert {"exclusive", "shared", "infra"} <= pools.keys()
    assert not (host.directory / "pools").exists()
    assert (host.directory / "pools.old").is_dir()
    shared = "3,11" if name == "kcm 0.6" else "7,15"
    assert f"CMK_CPUS_SHARED={shared}" in host.ok("isolate", "--pool=exclusive", "--no-affinity", "env").splitlines()


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        (
            {"exclusive": ("1", {"0/3,11": "", "0/99": ""}), "infra": ("0", {"0/0": ""})},
            "exclusive:99 has CPUs 99, which are not online",
        ),
        ({"exclusive": ("1", {"0/3": ""}), "infra": ("0", {"0/0": ""})}, "exclusive:3 is not one physical core"),
        ({"exclusive": ("1", {"0/3,11": ""}), "infra": ("0", {"0/3": ""})}, "CPU 3 is in exclusive:3,11 and in infra:3"),
        ({"exclusive": ("1", {"0/3,11": ""})}, "pool infra has no CPUs"),
        ({"exclusive": ("yes", {"0/3,11": ""})}, "exclusive has 'yes', which is neither 0 nor 1"),
        ({"infra": ("0", {"0/a": ""})}, "infra:a: 'a' in CPU list 'a' is not a CPU"),
        ({"infra": ("0", {"0/0": "12,x"})}, "tasks has 'x', which is not a pid"),
    ],
)
def test_what_contradicts_the_machine_is_refused_and_left_alone(
    host: Host, pools: dict[str, tuple[str, dict[str, str]]], message: str
) -> None:
    tree(host.directory, pools)
    done = host.run("init")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert message in done.stderr
    assert (host.directory / "pools").is_dir()
    assert not (host.directory / "pools.json").exists()


@pytest.fixture
def pinned() -> Iterator[subprocess.Popen[bytes]]:
    """A process on the second CPU of this machine."""
    with subprocess.Popen(["sleep", "60"]) as process:
        os.sched_setaffinity(process.pid, {sorted(os.sched_getaffinity(0))[1]})
        yield process
        process.kill()


def test_living_tasks_go_on_and_dead_ones_are_dropped(tmp_path: Path, pinned: subprocess.Popen[bytes]) -> None:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    fabricate(tmp_path / "root", {str(first): 0, str(second): 0, "7000": 0})
    with subprocess.Popen(["sleep", "60"]) as elsewhere:
        tree(
            tmp_path / "conf",
            {
                "exclusive": ("1", {f"0/{second}": str(pinned.pid), "0/7000": str(elsewhere.pid)}),
                "infra": ("0", {f"0/{first}": "4194303"}),
            },
        )
        host = Host(tmp_path / "conf", tmp_path / "root")
        done = host.run("init")
        elsewhere.kill()
    assert "and 1 tasks; " in done.stderr
    assert "WARNING: dropped: process 4194303 of pool infra does not run any more\n" in done.stderr
    assert f"WARNING: dropped: process {elsewhere.pid} of pool exclusive may run on CPUs " in done.stderr
    pools = json.loads(host.ok("describe"))["pools"]
    assert pools["exclusive"]["cpuLists"][str(second)]["tasks"] == [pinned.pid]
    assert pools["exclusive"]["cpuLists"]["7000"]["tasks"] == []


def test_a_multi_core_task_stays_one(tmp_path: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    fabricate(tmp_path / "root", {**{str(cpu): 0 for cpu in cpus}, "7000": 0})
    with subprocess.Popen(["sleep", "60"]) as process:
        os.sched_setaffinity(process.pid, cpus)
        tree(
            tmp_path / "conf",
            {"exclusive": ("1", {f"0/{cpu}": str(process.pid) for cpu in cpus}), "infra": ("0", {"0/7000": ""})},
        )
        host = Host(tmp_path / "conf", tmp_path / "root")
        host.ok("init")
        (task,) = json.loads((tmp_path / "conf/pools.json").read_text())["tasks"]
        process.kill()
    assert (task["process"]["pid"], task["cores"], task["lists"]) == (process.pid, 2, [str(cpu) for cpu in cpus])


CONFIG = "exclusive: {0: {'2,10': [], '3,11': []}}\nshared: {0: {'7,15': []}}\ninfra: {0: {'0,8': []}}\n"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_configmap_of_cmk_1_5_is_taken_over_from_a_file(host: Host, tmp_path: Path, wrapped: bool) -> None:
    text = json.dumps({"kind": "ConfigMap", "data": {"config": CONFIG}}) if wrapped else CONFIG
    (tmp_path / "old.yaml").write_text(text)
    done = host.run("init", f"--from-configmap={tmp_path}/old.yaml")
    assert (done.returncode, done.stderr) == (0, "took over exclusive 2-3,10-11, infra 0,8, shared 7,15 and 0 tasks\n")
    assert list(json.loads(host.ok("describe"))["pools"]["exclusive"]["cpuLists"]) == ["2,10", "3,11"]
    assert host.run("init", f"--from-configmap={tmp_path}/old.yaml").returncode == 1


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid YAML"), ("[]", "holds no pools")])
def test_a_file_that_holds_none_is_refused(host: Host, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "old.yaml").write_text(text)
    done = host.run("init", f"--from-configmap={tmp_path}/old.yaml")
    assert (done.returncode, message in done.stderr, done.stderr.count("\n")) == (1, True, 1)


@pytest.mark.parametrize("kind", ["link", "pipe", "flood"])
def test_what_a_pod_may_have_planted_is_not_followed(host: Host, tmp_path: Path, kind: str) -> None:
    tree(host.directory, TREES["CMK 1.4.1"])
    path = host.directory / "pools/shared/0/7,15/tasks"
    path.unlink()
    if kind == "link":
        (tmp_path / "secret").write_text("7")
        path.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("1," * 40000)
    done = host.run("init")
    assert (done.returncode, done.stderr.count("\n"), str(path) in done.stderr) == (1, 1, True)
