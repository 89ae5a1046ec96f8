from __future__ import annotations

from pathlib import Path

from cmk.agent.cluster import Seen
from cmk.agent.nodelayout import NodeLayout
from cmk.model.config import Chosen, PoolConfig, Section
from cmk.model.topology import Core, Topology


def topology(cores: int) -> Topology:
    return Topology(tuple(Core(number, 0, frozenset({number})) for number in range(cores)))


def seen(exclusive: int) -> Seen:
    pools = {"exclusive": PoolConfig(exclusive, exclusive=True), "shared": PoolConfig(1), "infra": PoolConfig("rest")}
    return Seen(Chosen(Section(pools, hash="abc"), "default"))


def test_what_was_made_is_found_again(tmp_path: Path) -> None:
    made = NodeLayout("n", tmp_path / "layout", topology(6)).make(seen(2))
    later = NodeLayout("n", tmp_path / "layout", topology(6))
    later.resume(in_use=False)
    assert made is not None
    assert later.saved == made
    assert (made.section.hash, made.scope) == ("abc", "default")


def test_what_cannot_be_is_refused_with_the_remedy(tmp_path: Path) -> None:
    layout = NodeLayout("worker-1", tmp_path / "layout", topology(4))
    assert layout.make(seen(4)) is None
    assert layout.reason == "LayoutImpossible"
    assert "set hosts.worker-1.pools in the chart's values" in layout.problem
    assert not (tmp_path / "layout").exists()


def test_a_refusal_is_forgotten_when_it_works(tmp_path: Path) -> None:
    layout = NodeLayout("n", tmp_path / "layout", topology(4))
    layout.make(seen(4))
    assert layout.make(seen(1)) is not None
    assert (layout.reason, layout.problem) == ("", "")


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    layout = NodeLayout("n", tmp_path / "layout", topology(4))
    assert layout.make(Seen(error="config.json: nonsense")) is None
    assert (layout.reason, layout.problem) == ("ConfigInvalid", "config.json: nonsense")


def test_without_configuration_nothing_is_made(tmp_path: Path) -> None:
    assert NodeLayout("n", tmp_path / "layout", topology(4)).make(Seen()) is None


def test_cpus_that_are_gone_void_the_layout_but_not_under_tasks(tmp_path: Path) -> None:
    NodeLayout("n", tmp_path / "layout", topology(6)).make(seen(2))
    smaller = NodeLayout("n", tmp_path / "layout", topology(4))
    smaller.resume(in_use=True)
    assert smaller.saved is not None
    smaller.resume(in_use=False)
    assert smaller.saved is None


def test_a_node_that_leaves_keeps_no_layout(tmp_path: Path) -> None:
    layout = NodeLayout("n", tmp_path / "layout", topology(6))
    layout.make(seen(2))
    layout.forget()
    layout.forget()
    assert not (tmp_path / "layout").exists()
