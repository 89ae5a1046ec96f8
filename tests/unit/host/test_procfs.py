import os
from pathlib import Path

import pytest

from cmk.host.procfs import Procfs
from cmk.model.cgroup_path import MixedCgroupsError, Place, parse_cgroup
from cmk.model.tasks import Process

UID = "0c8a3e6e-6d3f-4f0c-9d5e-0a1b2c3d4e5f"
OTHER = "ffffffff-6d3f-4f0c-9d5e-0a1b2c3d4e5f"
CID = "ab" * 32
HASH = "0123456789abcdef0123456789abcdef"
U = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"0::/kubepods/burstable/pod{UID}/{CID}", Place(UID, CID)),
        (f"4:cpuset:/kubepods/pod{UID}/{CID}", Place(UID, CID)),
        (
            f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{U}.slice/cri-containerd-{CID}.scope",
            Place(UID, CID),
        ),
        (f"0::/kubepods.slice/kubepods-pod{U}.slice/crio-{CID}.scope", Place(UID, CID)),
        (f"0::/kubepods.slice/kubepods-pod{U}.slice/crio-{CID}.scope/container", Place(UID, CID)),
        (f"0::/../../kubepods-burstable-pod{U}.slice/cri-containerd-{CID}.scope", Place(UID, CID)),
        (f"0::/../../pod{UID}/{CID}", Place(UID, CID)),
        (f"0::/kubelet/kubepods/burstable/pod{HASH}/{CID}", Place(HASH, CID)),
        (f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{U}.slice/docker-{CID}.scope", Place(UID, CID)),
        (f"0::/kubepods/pod{UID}", Place(UID, "")),
        ("0::/system.slice/sshd.service", Place()),
        ("0::/", Place()),
        ("0::/user.slice/podman-1000.slice", Place()),
        ("0::/kubepods/podinfo", Place()),
        # what a workload appends below its own container does not move it
        (f"0::/kubepods/pod{UID}/{CID}/pod{OTHER}/{CID}", Place(UID, CID)),
        (f"0::/kubepods/pod{UID}/{CID}/kubepods-pod{OTHER.replace('-', '_')}.slice", Place(UID, CID)),
        (f"4:cpuset:/kubepods/pod{UID}/{CID}:/pod{OTHER}", Place(UID, "")),
    ],
)
def test_finds_pod_and_container(line: str, expected: Place) -> None:
    assert parse_cgroup(line) == expected


def test_reads_all_hierarchies_of_cgroup_v1() -> None:
    text = f"12:cpuset:/kubepods/pod{UID}/{CID}\n3:name=systemd:/kubepods/pod{UID}\n0::/\n"
    assert parse_cgroup(text) == Place(UID, CID)


def test_two_pods_at_once_are_refused() -> None:
    with pytest.raises(MixedCgroupsError, match=f"{UID}, {OTHER}"):
        parse_cgroup(f"2:cpu:/kubepods/pod{UID}/{CID}\n1:pids:/kubepods/pod{OTHER}/{CID}\n")


def test_start_time_survives_any_command_name(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    fields = ["S", *(str(number) for number in range(4, 53))]
    (tmp_path / "42/stat").write_text("42 (a) b (c) " + " ".join(fields) + "\n")
    assert Procfs(tmp_path).process(42) == Process(42, 22)


@pytest.mark.parametrize(("state", "alive"), [("R", True), ("S", True), ("Z", False), ("X", False)])
def test_a_zombie_is_not_alive(tmp_path: Path, state: str, alive: bool) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/stat").write_text(f"42 (x) {state} " + " ".join(str(number) for number in range(4, 53)))
    assert Procfs(tmp_path).is_alive(Process(42, 22)) is alive


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/stat").write_text("42 (x) S " + " ".join(str(number) for number in range(4, 53)))
    assert not Procfs(tmp_path).is_alive(Process(42, 21))


@pytest.mark.parametrize(
    ("line", "expected"), [("NSpid:\t42\t1", True), ("NSpid:\t1", False), ("NSpid:\t42\t7", False), ("", False)]
)
def test_knows_the_init_of_a_pid_namespace(tmp_path: Path, line: str, expected: bool) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42/status").write_text(f"Name:\tx\n{line}\n")
    assert Procfs(tmp_path).is_namespace_init(42) is expected


def test_reads_this_process() -> None:
    procfs = Procfs()
    assert procfs.is_alive(procfs.process(os.getpid()))
    assert os.getpid() in procfs.pids()
    assert os.getpid() in procfs.threads(os.getpid())
    assert procfs.boot_id() == procfs.boot_id() != ""


@pytest.mark.parametrize("call", ["process", "place", "threads", "is_namespace_init"])
def test_a_process_that_is_gone_is_told_as_such(tmp_path: Path, call: str) -> None:
    with pytest.raises(ProcessLookupError):
        getattr(Procfs(tmp_path), call)(42)
