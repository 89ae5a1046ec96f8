"""sysfs and procfs trees of machines that are not here."""

from __future__ import annotations

from pathlib import Path

from cmk.model import cpuset
from tests.topologies import Shape


def fabricate(
    root: Path, cores: dict[str, int], *, online: str = "", isolated: str | None = "", cmdline: str = "quiet"
) -> tuple[Path, Path]:
    """``cores`` maps a core's CPU list to its package id; returns sysfs root and cmdline file."""
    base = root / "sys/devices/system/cpu"
    sets = {text: cpuset.parse(text) for text in cores}
    everything = frozenset().union(*sets.values())
    up = cpuset.parse(online) if online else everything
    packages: dict[int, frozenset[int]] = {}
    for text, package in cores.items():
        packages[package] = packages.get(package, frozenset()) | sets[text] & up
    lists = {package: (cpuset.kernel_list(cpus), _hex_mask(cpus)) for package, cpus in packages.items()}
    base.mkdir(parents=True)
    (base / "online").write_text(cpuset.kernel_list(up) + "\n")
    (base / "possible").write_text(cpuset.kernel_list(everything) + "\n")
    (base / "present").write_text(cpuset.kernel_list(everything) + "\n")
    if isolated is not None:
        (base / "isolated").write_text(isolated + "\n")
    same: dict[str, Path] = {}

    def put(path: Path, text: str) -> None:
        """One file for all CPUs that say the same: to make tens of thousands takes seconds."""
        if text in same:
            path.hardlink_to(same[text])
        else:
            path.write_text(text + "\n")
            same[text] = path

    for number, (text, package) in enumerate(cores.items()):
        siblings = sets[text] & up
        threads = cpuset.kernel_list(siblings)
        for cpu in siblings:  # the kernel takes an offline CPU's topology away, and the CPU out of its siblings'
            topology = base / f"cpu{cpu}/topology"
            topology.mkdir(parents=True)
            put(topology / "core_cpus_list", threads)
            put(topology / "thread_siblings_list", threads)
            put(topology / "package_cpus_list", lists[package][0])
            put(topology / "core_siblings_list", lists[package][0])
            put(topology / "thread_siblings", _hex_mask(siblings))
            put(topology / "core_siblings", lists[package][1])
            put(topology / "core_id", str(number))
            put(topology / "physical_package_id", str(package))
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text("00000000-0000-0000-0000-000000000000\n")
    # lscpu looks at no topology of a CPU whose model it does not learn here
    about = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Test\nstepping\t: 7\n"
    (root / "proc/cpuinfo").write_text("".join(f"processor\t: {cpu}\n{about}\n" for cpu in sorted(everything)))
    (base / "kernel_max").write_text("8191\n")
    (root / "proc/cmdline").write_text(cmdline + "\n")
    return root / "sys", root / "proc/cmdline"


def fabricate_shape(root: Path, shape: Shape) -> tuple[Path, Path]:
    """The tree of a shape, with what its frequency driver says."""
    sys_root, cmdline = fabricate(root, shape.cores, online=shape.online, isolated=shape.isolated)
    for name, by_core in (
        ("base_frequency", shape.base_frequency),
        ("energy_performance_preference", shape.energy_preference),
    ):
        for number, text in enumerate(shape.cores):
            for cpu in cpuset.parse(text) if by_core else ():
                directory = sys_root / f"devices/system/cpu/cpu{cpu}/cpufreq"
                directory.mkdir(parents=True, exist_ok=True)
                (directory / name).write_text(f"{by_core[number]}\n")
    return sys_root, cmdline


def _hex_mask(cpus: frozenset[int]) -> str:
    return f"{sum(1 << cpu for cpu in cpus):08x}"
