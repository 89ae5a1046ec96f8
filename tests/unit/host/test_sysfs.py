"""Fabricated sysfs trees, compared with what lscpu itself says of them where it can."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cmk.host.sysfs import TopologyError, read_topology
from cmk.model import cpuset


def fabricate(
    root: Path, cores: dict[str, int], *, online: str = "", isolated: str | None = "", cmdline: str = "quiet"
) -> tuple[Path, Path]:
    """``cores`` maps a core's CPU list to its package id; returns sysfs root and cmdline file."""
    base = root / "sys/devices/system/cpu"
    everything = frozenset().union(*(cpuset.parse(text) for text in cores))
    base.mkdir(parents=True)
    (base / "online").write_text((online or cpuset.kernel_list(everything)) + "\n")
    (base / "possible").write_text(cpuset.kernel_list(everything) + "\n")
    (base / "present").write_text(cpuset.kernel_list(everything) + "\n")
    if isolated is not None:
        (base / "isolated").write_text(isolated + "\n")
    for number, (text, package) in enumerate(cores.items()):
        packages = frozenset().union(*(cpuset.parse(other) for other, same in cores.items() if same == package))
        for cpu in cpuset.parse(text):
            topology = base / f"cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "core_cpus_list").write_text(text + "\n")
            (topology / "thread_siblings_list").write_text(text + "\n")
            (topology / "package_cpus_list").write_text(cpuset.kernel_list(packages) + "\n")
            (topology / "core_siblings_list").write_text(cpuset.kernel_list(packages) + "\n")
            (topology / "thread_siblings").write_text(hex_mask(cpuset.parse(text)) + "\n")
            (topology / "core_siblings").write_text(hex_mask(packages) + "\n")
            (topology / "core_id").write_text(f"{number}\n")
            (topology / "physical_package_id").write_text(f"{package}\n")
    (root / "proc").mkdir()
    # lscpu looks at no topology of a CPU whose model it does not learn here
    about = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Test\nstepping\t: 7\n"
    (root / "proc/cpuinfo").write_text("".join(f"processor\t: {cpu}\n{about}\n" for cpu in sorted(everything)))
    (base / "kernel_max").write_text("8191\n")
    (root / "proc/cmdline").write_text(cmdline + "\n")
    return root / "sys", root / "proc/cmdline"


def hex_mask(cpus: frozenset[int]) -> str:
    return f"{sum(1 << cpu for cpu in cpus):08x}"


MACHINES = {
    "one CPU": {"0": 0},
    "no SMT": {"0": 0, "1": 0, "2": 0, "3": 0},
    "linux numbering": {"0,4": 0, "1,5": 0, "2,6": 1, "3,7": 1},
    "adjacent numbering": {"0-1": 0, "2-3": 0, "4-5": 1, "6-7": 1},
    "interleaved sockets": {"0,4": 0, "1,5": 1, "2,6": 0, "3,7": 1},
    "high package ids": {"0-1": 36, "2-3": 3},
}


@pytest.mark.parametrize("cores", MACHINES.values(), ids=MACHINES.keys())
def test_numbers_as_lscpu_does(tmp_path: Path, cores: dict[str, int]) -> None:
    assert shutil.which("lscpu"), "lscpu comes with util-linux"
    topology = read_topology(*fabricate(tmp_path, cores))
    ours = {cpu: (core.id, core.socket) for core in topology.cores for cpu in core.cpus}
    text = subprocess.run(["lscpu", "-p=CPU,CORE,SOCKET", "-s", tmp_path], check=True, capture_output=True, text=True).stdout
    theirs = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            cpu, core, socket = (int(word) for word in line.split(","))
            theirs[cpu] = (core, socket)
    assert ours == theirs


def test_offline_threads_belong_to_no_core(tmp_path: Path) -> None:
    topology = read_topology(*fabricate(tmp_path, MACHINES["linux numbering"], online="0-3,5-7"))
    assert [sorted(core.cpus) for core in topology.cores] == [[0], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("isolated", "cmdline", "expected", "sources"),
    [
        ("", "quiet", set(), ()),
        ("2,6", "quiet", {2}, ("sysfs",)),
        (None, "isolcpus=2,6 quiet", {2}, ("cmdline",)),
        ("2,6", "isolcpus=managed_irq,3,7", {2, 3}, ("sysfs", "cmdline")),
        ("2", "", set(), ("sysfs",)),
    ],
)
def test_isolated_cores_come_from_both_sources(
    tmp_path: Path, isolated: str | None, cmdline: str, expected: set[int], sources: tuple[str, ...]
) -> None:
    topology = read_topology(*fabricate(tmp_path, MACHINES["linux numbering"], isolated=isolated, cmdline=cmdline))
    assert {core.id for core in topology.cores if core.isolated} == expected
    assert topology.isolated_from == sources


def test_without_topology_files_every_cpu_is_a_core_of_one_socket(tmp_path: Path) -> None:
    sys_root, cmdline = fabricate(tmp_path, MACHINES["no SMT"])
    for cpu in range(4):
        shutil.rmtree(sys_root / f"devices/system/cpu/cpu{cpu}/topology")
    topology = read_topology(sys_root, cmdline)
    assert [(sorted(core.cpus), core.socket) for core in topology.cores] == [([0], 0), ([1], 0), ([2], 0), ([3], 0)]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [("online", "", "names no CPU"), ("online", "x", "is no CPU"), ("isolated", "3-1", "runs backwards")],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    sys_root, cmdline = fabricate(tmp_path, MACHINES["no SMT"])
    (sys_root / "devices/system/cpu" / name).write_text(content)
    with pytest.raises(TopologyError, match=f"{name}.*{complaint}"):
        read_topology(sys_root, cmdline)


def test_a_bad_command_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="isolcpus=2-a"):
        read_topology(*fabricate(tmp_path, MACHINES["no SMT"], cmdline="isolcpus=2-a"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"cannot read .*online: No such file"):
        read_topology(tmp_path, tmp_path / "cmdline")


def test_reads_this_machine() -> None:
    topology = read_topology(Path("/sys"), Path("/proc/cmdline"))
    assert topology.cpus == cpuset.parse(Path("/sys/devices/system/cpu/online").read_text())
