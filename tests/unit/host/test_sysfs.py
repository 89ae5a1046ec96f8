"""Fabricated sysfs trees, compared with what lscpu itself says of them where it can."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cmk.host.sysfs import TopologyError, read_topology
from cmk.model import cpuset
from tests.fabricate import fabricate, fabricate_shape
from tests.topologies import SHAPES, Shape
from tests.topologies.layouts import topology_of

MACHINES = {
    "no SMT": {"0": 0, "1": 0, "2": 0, "3": 0},
    "linux numbering": {"0,4": 0, "1,5": 0, "2,6": 1, "3,7": 1},
}


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_numbers_as_lscpu_does(tmp_path: Path, shape: Shape) -> None:
    assert shutil.which("lscpu"), "lscpu comes with util-linux"
    topology = read_topology(*fabricate_shape(tmp_path, shape))
    ours = {cpu: (core.id, core.socket) for core in topology.cores for cpu in core.cpus}
    text = subprocess.run(["lscpu", "-p=CPU,CORE,SOCKET", "-s", tmp_path], check=True, capture_output=True, text=True).stdout
    theirs = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            cpu, core, socket = (int(word) for word in line.split(","))
            theirs[cpu] = (core, socket)
    assert ours == theirs
    assert topology == topology_of(shape)


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
    [("online", "", "names no CPU"), ("online", "x", "is not a CPU"), ("isolated", "3-1", "runs backwards")],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    sys_root, cmdline = fabricate(tmp_path, MACHINES["no SMT"])
    (sys_root / "devices/system/cpu" / name).write_text(content)
    with pytest.raises(TopologyError, match=f"{name}.*{complaint}"):
        read_topology(sys_root, cmdline)


@pytest.mark.parametrize(
    ("cmdline", "isolated", "expected", "warning"),
    [
        ("isolcpus=0", "", set(), "isolcpus= names CPUs 0, which the kernel does not isolate"),
        ('isolcpus="2-3"', "2-3", {2, 3}, ""),
        ("isolcpus=$ISOL_CPUS", "", set(), "isolcpus=$ISOL_CPUS is ignored by the kernel"),
        ("isolcpus=Domain,2-3", "2-3", {2, 3}, ""),
        ("isolcpus=2-9", "", set(), "isolcpus=2-9 is ignored by the kernel"),
        ("isolcpus=nohz,2-3", "", set(), ""),
        ("isolcpus=2-a", None, set(), "isolcpus=2-a is ignored by the kernel"),
    ],
)
def test_sysfs_says_what_the_kernel_does(
    tmp_path: Path, cmdline: str, isolated: str | None, expected: set[int], warning: str
) -> None:
    topology = read_topology(*fabricate(tmp_path, MACHINES["no SMT"], isolated=isolated, cmdline=cmdline))
    assert {cpu for core in topology.cores for cpu in core.isolated_cpus} == expected
    assert [text[: len(warning)] for text in topology.warnings] == [warning] * bool(warning)


@pytest.mark.parametrize(("text", "expected"), [("2-3", {2, 3}), ("(null)", set()), ("", set())])
def test_sysfs_says_which_cpus_have_no_tick(tmp_path: Path, text: str, expected: set[int]) -> None:
    sys_root, cmdline = fabricate(tmp_path, MACHINES["no SMT"], cmdline="nohz_full=1")
    (sys_root / "devices/system/cpu/nohz_full").write_text(f"{text}\n")
    assert read_topology(sys_root, cmdline).nohz_full == expected


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match=r"cannot read .*online: No such file"):
        read_topology(tmp_path, tmp_path / "cmdline")


def test_reads_this_machine() -> None:
    topology = read_topology(Path("/sys"), Path("/proc/cmdline"))
    assert topology.cpus == cpuset.parse(Path("/sys/devices/system/cpu/online").read_text())


@pytest.mark.parametrize(
    ("cmdline", "isolated", "nohz_full"),
    [
        ("isolcpus=0-7:1/4 nohz_full=4-N", {0, 4}, {4, 5, 6, 7}),
        ("isolcpus=nohz,domain,managed_irq,2-5", {2, 3, 4, 5}, set()),
        ("nohz_full=all", set(), set(range(1, 8))),
        ("isolcpus=1 isolcpus=2", {1}, set()),
    ],
)
def test_the_command_line_is_read_as_the_kernel_does(
    tmp_path: Path, cmdline: str, isolated: set[int], nohz_full: set[int]
) -> None:
    cores = {str(cpu): 0 for cpu in range(8)}
    topology = read_topology(*fabricate(tmp_path, cores, isolated=None, cmdline=cmdline))
    assert {cpu for core in topology.cores for cpu in core.isolated_cpus} == isolated
    assert topology.nohz_full == nohz_full


def test_a_frequency_that_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    sys_root, cmdline = fabricate(tmp_path, {"0": 0})
    (sys_root / "devices/system/cpu/cpu0/cpufreq/base_frequency").mkdir(parents=True)
    core = read_topology(sys_root, cmdline).cores[0]
    assert (core.base_frequency, core.energy_preference) == (0, "")
