"""The rules of allocation, and the two that ask for them: the agent's ledger and direct mode."""

from __future__ import annotations

import json
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmk.isolate import local
from cmk.isolate.say import LATER, Failure
from cmk.model import cpuset
from cmk.model.choice import ANY_SOCKET, Refused, choose, comma_list, environment, find_pool, mask
from cmk.model.config import PoolConfig
from cmk.model.layout import compute
from cmk.model.ledger import Ledger
from cmk.model.tasks import Process, Request
from tests.unit.machines import machine

CPUS = st.frozensets(st.integers(0, 4095), max_size=200)
LISTS = {"0,8": 0, "1,9": 0, "4,12": 1}
LAYOUT = compute(
    machine(sockets=2, cores=6),
    {
        "exclusive": PoolConfig(5, exclusive=True, mode="spread"),
        "gold": PoolConfig({"1": 2}, exclusive=True),
        "shared": PoolConfig(2, mode="spread"),
        "infra": PoolConfig("rest"),
    },
)
REQUESTS = st.tuples(
    st.sampled_from(["exclusive", "gold", "shared", "infra", "dataplane", "controlplane", "none"]),
    st.integers(1, 6),
    st.integers(-1, 2),
)


def lists_of(
    pool: str = "exclusive",
    *,
    users: dict[str, int] | None = None,
    cores: int = 1,
    socket: int = ANY_SOCKET,
    available: tuple[str, ...] = tuple(LISTS),
    lists: dict[str, int] = LISTS,
) -> list[str]:
    return choose(pool, pool == "exclusive", lists, users or {}, cores, socket, available)


@pytest.mark.parametrize(("name", "pool"), [("shared", "shared"), ("controlplane", "shared"), ("dataplane", "dataplane")])
def test_a_pool_has_its_own_name_first_and_then_kcms(name: str, pool: str) -> None:
    assert find_pool({"shared", "dataplane"}, name) == pool


def test_a_pool_that_no_node_has_is_refused_for_good() -> None:
    with pytest.raises(Refused, match="Requested pool dataplane does not exist; this node has infra, shared") as refusal:
        find_pool({"shared", "infra"}, "dataplane")
    assert refusal.value.final


def test_an_exclusive_pool_gives_the_first_lists_that_have_no_user() -> None:
    assert lists_of(cores=2, users={"0,8": 1}) == ["1,9", "4,12"]


def test_an_exclusive_pool_gives_lists_in_the_order_of_those_available() -> None:
    assert lists_of(cores=2, available=("4,12", "0,8")) == ["4,12", "0,8"]


def test_a_shared_pool_gives_one_list_with_the_fewest_users() -> None:
    assert lists_of("shared", cores=2, users={"0,8": 2, "1,9": 1, "4,12": 1}) == ["1,9"]


@pytest.mark.parametrize("pool", ["exclusive", "shared"])
def test_a_socket_restricts_the_choice(pool: str) -> None:
    assert lists_of(pool, socket=1) == ["4,12"]


def test_infra_ignores_the_socket() -> None:
    assert lists_of("infra", socket=7) == ["0,8"]


@pytest.mark.parametrize(
    ("request_", "text", "final"),
    [
        ({"cores": 0}, "Requested numbers of cores must be positive integer, not 0", True),
        ({"lists": {}}, "No cpu lists in pool exclusive", True),
        ({"socket": 4}, "No cpu lists in pool exclusive on socket 4; it has lists on 0, 1", True),
        ({"cores": 4}, "Not enough cpu lists in pool exclusive: 4 asked, 3 exist", True),
        ({"cores": 3, "socket": 0}, "Not enough cpu lists in pool exclusive: 3 asked, 2 exist on socket 0", True),
        ({"cores": 2, "users": {"0,8": 1, "1,9": 1}}, "Not enough free cpu lists in pool exclusive: 2 asked, 1 of 3 free", False),
        ({"available": ()}, "Not enough free cpu lists in pool exclusive: 1 asked, 0 of 3 free", False),
    ],
)
def test_a_refusal_says_why_and_whether_it_is_final(request_: dict[str, object], text: str, final: bool) -> None:
    with pytest.raises(Refused) as refusal:
        lists_of(**request_)  # type: ignore[arg-type]
    assert (str(refusal.value), refusal.value.final) == (text, final)


def test_the_workload_sees_its_lists_one_by_one_and_the_common_pools_whole() -> None:
    assert environment([[8, 0], [1, 9]], [10, 2], []) == {
        "CMK_CPUS_ASSIGNED": "0,8,1,9",
        "CMK_CPUS_ASSIGNED_MASK": "303",
        "CMK_CPUS_SHARED": "2,10",
        "CMK_CPUS_INFRA": "",
    }


@given(CPUS)
def test_a_comma_list_can_be_read_again(cpus: frozenset[int]) -> None:
    assert cpuset.parse(comma_list(cpus)) == cpus


@given(CPUS)
def test_a_mask_has_exactly_the_bits(cpus: frozenset[int]) -> None:
    bits = int(mask(cpus), 16)
    assert {cpu for cpu in range(4096) if bits >> cpu & 1} == cpus


def test_formats_are_cmks() -> None:
    assert (comma_list({11, 3}), mask({3, 11}), mask({60, 63})) == ("3,11", "808", "9000000000000000")


@given(st.lists(REQUESTS, max_size=12))
def test_the_agent_and_direct_mode_answer_the_same(requests: list[tuple[str, int, int]]) -> None:
    ledger = Ledger(LAYOUT, require_grant=False)
    pools = json.loads(msgspec.json.encode(LAYOUT))["pools"]
    tasks: list[dict[str, object]] = []
    for pid, (pool, cores, socket) in enumerate(requests, start=1):
        agent: object
        direct: object
        try:
            task = ledger.allocate(Request(pool, Process(pid, 1), cores, socket))
            agent = (task.pool, list(task.lists), ledger.environment(task))
        except Refused as refusal:
            agent = (str(refusal), refusal.final)
        try:
            name, lists = local.choose(pools, tasks, pool, cores, socket)
            names = [comma_list(item["cpus"]) for item in lists]
            tasks.append({"process": {"pid": pid, "start": 1}, "pool": name, "lists": names})
            direct = (name, names, local.environment(pools, lists))
        except Failure as failure:
            direct = (str(failure), failure.code != LATER)
        assert direct == agent


def test_the_module_imports_nothing_but_the_base_of_errors() -> None:
    """Direct mode loads it before every workload."""
    script = "import sys; before = set(sys.modules); import cmk.model.choice; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, 'image'); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["cmk", "cmk.model", "cmk.model.choice", "cmk.model.errors"]
