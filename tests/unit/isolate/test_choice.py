"""What direct mode decides is what the ledger decides."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cmk.isolate import local
from cmk.isolate.launch import LATER, Failure
from cmk.model.choice import Refused
from cmk.model.config import PoolConfig
from cmk.model.layout import compute
from cmk.model.ledger import Ledger
from cmk.model.tasks import Process, Request
from tests.unit.machines import machine

LAYOUT = compute(
    machine(sockets=2, cores=6),
    {
        "exclusive": PoolConfig(5, exclusive=True, mode="spread"),
        "gold": PoolConfig({"1": 2}, exclusive=True),
        "shared": PoolConfig(2, mode="spread"),
        "infra": PoolConfig("rest"),
    },
)
ASKED = st.tuples(
    st.sampled_from(["exclusive", "gold", "shared", "infra", "dataplane", "controlplane", "none"]),
    st.integers(1, 6),
    st.integers(-1, 2),
)


@given(st.lists(ASKED, max_size=12))
def test_both_choose_the_same(line: list[tuple[str, int, int]]) -> None:
    ledger = Ledger(LAYOUT, require_grant=False)
    pools = json.loads(msgspec.json.encode(LAYOUT))["pools"]
    tasks: list[dict[str, object]] = []
    for number, (pool, cores, socket) in enumerate(line):
        try:
            task = ledger.allocate(Request(pool, Process(number + 1, 1), cores, socket))
            expected = (task.pool, list(task.lists), ledger.environment(task))
        except Refused as refusal:
            expected = (str(refusal), refusal.final)  # type: ignore[assignment]
        try:
            name, lists = local.choose(pools, tasks, pool, cores, socket)
            names = [local.comma_list(item["cpus"]) for item in lists]
            tasks.append({"process": {"pid": number + 1, "start": 1}, "pool": name, "lists": names})
            found: object = (name, names, local.environment(pools, lists))
        except Failure as failure:
            found = (str(failure), failure.code != LATER)
        assert found == expected
