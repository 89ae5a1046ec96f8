"""What CMK 1.5 kept in ConfigMaps, and the layout that old pools make."""

from __future__ import annotations

import pytest
import yaml

from cmk.legacy.takeover import AdoptionError, OldPool, as_config, parse_configmap, parse_tasks, take_over
from cmk.model.layout import compute
from tests.unit.machines import machine

CONFIG = """
exclusive:
  0:
    3,11: ['4711']
    2,10: []
  1: {}
exclusive-non-isolcpus: {0: {'5,13': []}}
infra: {0: {'0,1,8,9': ['12', '13']}}
shared: {0: {'4,12': []}}
"""


def test_a_configmap_is_read_with_its_pids() -> None:
    pools = parse_configmap(yaml.safe_load(CONFIG))
    assert pools["exclusive"] == OldPool(True, {"3,11": (4711,), "2,10": ()})
    assert pools["exclusive-non-isolcpus"].exclusive
    assert not pools["infra"].exclusive
    assert pools["infra"].lists == {"0,1,8,9": (12, 13)}


def test_its_layout_is_ours() -> None:
    found = take_over(parse_configmap(yaml.safe_load(CONFIG)), machine())
    assert [item.name for item in found.layout.pools["exclusive"].lists] == ["2,10", "3,11"]
    assert [(task.pid, task.pool, task.lists) for task in found.tasks] == [
        (4711, "exclusive", ("3,11",)),
        (12, "infra", ("0,1,8,9",)),
        (13, "infra", ("0,1,8,9",)),
    ]


def test_a_layout_named_cpu_by_cpu_comes_out_the_same() -> None:
    layout = take_over(parse_configmap(yaml.safe_load(CONFIG)), machine()).layout
    assert compute(machine(), as_config(layout)).pools == layout.pools


def test_shared_lists_become_one_per_socket() -> None:
    old = {"infra": OldPool(False, {"0": (), "1": (), "6,7": ()})}
    layout = take_over(old, machine(sockets=2, cores=4)).layout
    assert [(item.name, item.socket) for item in layout.pools["infra"].lists] == [("0,1", 0), ("6,7", 1)]


def test_every_contradiction_is_told_at_once() -> None:
    old = {"exclusive": OldPool(True, {"3": (), "99": ()}), "infra": OldPool(False, {"3": ()})}
    with pytest.raises(AdoptionError, match=r"exclusive:3 is not one physical core.*exclusive:99 has CPUs 99.*CPU 3 is in"):
        take_over(old, machine())


@pytest.mark.parametrize(
    "data", [None, {}, [], "text", {"exclusive": [1]}, {"exclusive": {0: [1]}}, {"infra": {0: {"1": ["x"]}}}]
)
def test_what_is_no_configuration_is_refused(data: object) -> None:
    with pytest.raises(AdoptionError):
        parse_configmap(data)


@pytest.mark.parametrize(("text", "pids"), [("", ()), ("1", (1,)), ("1,2", (1, 2)), ("1,2\n", (1, 2)), (" 1 , 2 ", (1, 2))])
def test_a_tasks_file(text: str, pids: tuple[int, ...]) -> None:
    assert parse_tasks("tasks", text) == pids
