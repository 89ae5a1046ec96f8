"""What an older CMK left, in any shape: taken over or refused with AdoptionError, never anything else."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmk.host.procfs import Procfs
from cmk.host.sysfs import TopologyError, read_topology
from cmk.legacy import predecessor, tree
from cmk.legacy.takeover import AdoptionError, parse_configmap, take_over
from tests.unit.machines import machine

# Lists and pids that can be and that cannot: other digits, signs, digits without end, no text at all.
WORDS = st.sampled_from(
    ["0", "3,11", "0-1", "", " ", "٣", "²", "+7", "-1", "1_0", "9" * 5000, "0-99999999999", "a\0b", "\x1b[0m", "x" * 300]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=12
)
NAMES = st.sampled_from(["exclusive", "infra", "shared", "x"])


@given(VALUES | st.dictionaries(NAMES, st.dictionaries(SCALARS, st.dictionaries(WORDS, VALUES, max_size=3), max_size=2) | VALUES))
@example({"exclusive": {0: {"3,11": 4711}}})
@example({"exclusive": {0: {"3,11": "4711"}}})
@example({"exclusive": {0: {"3,11": 0}}})
@example({"exclusive": 0})
@example({"exclusive": {0: {"": [1]}}, "infra": {0: {"0": []}}})
def test_a_configmap_of_any_shape(data: object) -> None:
    try:
        old = parse_configmap(data)
        assert all(pid < 10**9 for pool in old.values() for pids in pool.lists.values() for pid in pids)
        tree.living_tasks(take_over(old, machine()), Procfs(Path("/nonexistent")))
    except AdoptionError:
        pass


@pytest.mark.parametrize("pids", [4711, "4711", 0, True, {"4711": None}])
def test_pids_that_are_no_list_are_refused_and_not_taken_for_none(pids: object) -> None:
    with pytest.raises(AdoptionError, match="instead of a list of pids"):
        parse_configmap({"exclusive": {0: {"3,11": pids}}})


def test_a_list_that_is_there_twice_is_refused() -> None:
    with pytest.raises(AdoptionError, match="twice"):
        parse_configmap({"exclusive": {0: {"3,11": [1]}, 1: {"3,11": [2]}}})


@given(
    st.text(max_size=60)
    | st.sampled_from(["2001-99-99", "9" * 5000, "[" * 2000, "a: &x {b: *x}", "0x", "1:99", "!!int x", "? {}"])
)
def test_text_of_any_kind_as_yaml(text: str) -> None:
    with contextlib.suppress(AdoptionError):
        parse_configmap(predecessor._yaml(text))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["exclusive", "0/3,11/tasks", "3,11/tasks", "1/3,11/tasks", "/tasks", "2/²/tasks"]),
            st.binary(max_size=20) | WORDS.map(str.encode),
        ),
        max_size=4,
    )
)
def test_a_tree_of_any_content(files: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory(prefix="cmk", dir="/dev/shm") as directory:
        for pool in ("exclusive", "infra"):
            for name, data in [("exclusive", b"1"), *files]:
                path = Path(directory) / "pools" / pool / name.strip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        try:
            tree.living_tasks(take_over(tree.read(Path(directory)), machine()), Procfs(Path("/nonexistent")))
        except AdoptionError as error:
            str(error).encode()


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (Path(str(tmp_path).encode().decode()) / "pools/\udcff").mkdir(parents=True)
    with pytest.raises(AdoptionError, match=r"udcff' is not plain text"):
        tree.read(tmp_path)


@given(st.binary(max_size=60) | st.sampled_from([b"\xff\xfe", b"0-\xb2", "٣".encode(), b"9" * 5000, b"0\0"]))
def test_a_machine_whose_files_hold_anything(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="cmk", dir="/dev/shm") as directory:
        root = Path(directory)
        base = root / "devices/system/cpu"
        for path in ("cpu0/topology/core_cpus_list", "cpu0/cpufreq/base_frequency", "cpu0/cpufreq/energy_performance_preference"):
            (base / path).parent.mkdir(parents=True, exist_ok=True)
            (base / path).write_bytes(data)
        for online, cmdline in ((b"0", b"isolcpus=" + data), (data, b""), (b"0", b"nohz_full=" + data)):
            (base / "online").write_bytes(online)
            (root / "cmdline").write_bytes(cmdline)
            try:
                read_topology(root, root / "cmdline")
            except TopologyError as error:
                str(error).encode()
