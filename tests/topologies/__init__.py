"""Shapes of machines, from one CPU to 4096. ``origin`` says which follow a public description and which were made up to be awkward.

A shape maps the CPU list of every core to its package id, in the order in which the kernel numbers cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cmk.model.choice import comma_list


@dataclass(frozen=True)
class Shape:
    """``online`` and ``isolated`` are CPU lists; "" is all, or none."""

    name: str
    origin: str
    cores: dict[str, int]
    online: str = ""
    isolated: str = ""
    base_frequency: dict[int, int] = field(default_factory=dict)
    energy_preference: dict[int, str] = field(default_factory=dict)


def linux(sockets: int, cores: int, threads: int = 2) -> dict[str, int]:
    """First threads of all cores of all sockets, then second threads: what most firmware does."""
    total = sockets * cores
    return {comma_list(core + thread * total for thread in range(threads)): core // cores for core in range(total)}


def adjacent(sockets: int, cores: int, threads: int = 2) -> dict[str, int]:
    """Threads of a core side by side: POWER, many virtual machines."""
    return {comma_list(range(core * threads, (core + 1) * threads)): core // cores for core in range(sockets * cores)}


def interleaved(sockets: int, cores: int, threads: int = 2) -> dict[str, int]:
    """Neighbouring numbers on different sockets: Dell's firmware."""
    total = sockets * cores
    return {comma_list(core + thread * total for thread in range(threads)): core % sockets for core in range(total)}


def _hybrid(fast: int, slow: int) -> dict[str, int]:
    """Fast cores with two threads side by side, then slow ones with one."""
    return {**adjacent(1, fast), **{str(2 * fast + core): 0 for core in range(slow)}}


def _sparse(cores: int, stride: int, sockets: int) -> dict[str, int]:
    """Every core takes the first two of ``stride`` numbers; the rest do not exist."""
    return {f"{core * stride},{core * stride + 1}": core * sockets // cores for core in range(cores)}


PUBLIC = "public description"
MADE = "generated"

SHAPES = [
    Shape("one CPU", f"{MADE}: smallest virtual machine", {"0": 0}),
    Shape("two CPUs", f"{MADE}: small virtual machine, no SMT", {"0": 0, "1": 0}),
    Shape("Raspberry Pi 4", f"{PUBLIC}: 4 x Cortex-A72, one package", linux(1, 4, 1)),
    Shape("Atom C3758", f"{PUBLIC}: 8 cores, no SMT", linux(1, 8, 1)),
    Shape("Xeon D-1541", f"{PUBLIC}: 8 cores, 16 threads; the example of CMK's manual", linux(1, 8)),
    Shape("Xeon E5-2690 v4, two sockets", f"{PUBLIC}: 2 x 14 cores, linux numbering", linux(2, 14)),
    Shape("Xeon E5-2690 v4, Dell numbering", f"{PUBLIC}: 2 x 14 cores, sockets interleaved", interleaved(2, 14)),
    Shape("Xeon Platinum 8380, two sockets", f"{PUBLIC}: 2 x 40 cores", linux(2, 40)),
    Shape("Xeon Platinum 8280, four sockets", f"{PUBLIC}: 4 x 28 cores", linux(4, 28)),
    Shape("Xeon 6 6780E", f"{PUBLIC}: 144 efficient cores, no SMT", linux(1, 144, 1)),
    Shape("EPYC 7763, two sockets", f"{PUBLIC}: 2 x 64 cores in clusters of 8 per L3, linux numbering", linux(2, 64)),
    Shape(
        "EPYC 9654, SMT off",
        f"{PUBLIC}: 2 x 96 cores in clusters of 8 per L3; second threads offline",
        linux(2, 96),
        online="0-191",
    ),
    Shape("Core i9-12900K", f"{PUBLIC}: 8 fast cores with SMT, 8 slow ones without", _hybrid(8, 8)),
    Shape("Core Ultra 7 155H", f"{PUBLIC}: 6 fast cores with SMT, 10 slow ones without", _hybrid(6, 10)),
    Shape("POWER9", f"{PUBLIC}: 2 x 20 cores with 4 threads side by side", adjacent(2, 20, 4)),
    Shape("POWER9, SMT 2", f"{PUBLIC}: the same, threads 2 and 3 of each core offline", adjacent(2, 20, 4), online="0-159:2/4"),
    Shape("ThunderX2", f"{PUBLIC}: 2 x 32 cores with 4 threads, linux numbering", linux(2, 32, 4)),
    Shape(
        "Ampere Altra Max, two sockets",
        f"{PUBLIC}: 2 x 128 cores, package ids 36 and 3180",
        {str(core): 36 if core < 128 else 3180 for core in range(256)},
    ),
    Shape("virtual machine, a socket per CPU", f"{MADE}: hypervisor default of old", {str(cpu): cpu for cpu in range(8)}),
    Shape("virtual machine, adjacent threads", f"{MADE}: 2 sockets x 4 cores, as QEMU numbers them", adjacent(2, 4)),
    Shape("offline holes", f"{MADE}: cores and single threads offline", linux(2, 8), online="0,2-6,9-15,16-18,20,22-30"),
    Shape("first CPU offline", f"{MADE}: CPU 0 unplugged", linux(1, 8), online="1-15"),
    Shape(
        "isolated per socket",
        f"{MADE}: 2 x 16 cores, 15 of each isolated (StarlingX)",
        linux(2, 16),
        isolated="1-15,17-31,33-47,49-63",
    ),
    Shape("partly isolated", f"{MADE}: one core half isolated", linux(1, 8), isolated="4-7,12-14"),
    Shape(
        "Xeon Gold 6252N with SST-BF",
        f"{PUBLIC}: 24 cores, 8 of them 2.8 GHz, the others 2.1",
        linux(1, 24),
        base_frequency={core: 2_800_000 if core in {1, 4, 6, 9, 12, 16, 19, 22} else 2_100_000 for core in range(24)},
    ),
    Shape(
        "Xeon Gold 6338N with SST-CP",
        f"{MADE}: 32 cores in three classes",
        linux(1, 32),
        energy_preference={
            core: "performance" if 8 <= core < 12 else "balance_performance" if core == 20 else "power" for core in range(32)
        },
    ),
    Shape("4096 CPUs, eight sockets", f"{MADE}: as large as one kernel gets", linux(8, 256)),
    Shape("4096 CPUs, sparse", f"{MADE}: 2048 cores, ids up to 8189, NR_CPUS 8192", _sparse(2048, 4, 16)),
]
