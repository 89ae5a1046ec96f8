from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from cmk.agent.observed import Observed
from cmk.agent.watches import Watches
from cmk.kube import reports
from cmk.model import config
from cmk.model.config import Group, Host, PoolConfig, Section, Selection, shard_of
from cmk.model.pods import Pod
from tests.unit.agent.cluster import NODES, Cluster
from tests.unit.agent.harness import options_in

DEFAULT, BIG, MINE, MINE_BIG, BY_LABEL = (
    Section({"exclusive": PoolConfig(cores, exclusive=True)}, f"h{cores}") for cores in range(1, 6)
)
GROUPS = {"big": Group(BIG, {"size": "big"})}
SELECTION = Selection({"cmk-node": "enabled"})
HOST = Host({"": MINE, "big": MINE_BIG})


class Agent:
    """Watches over a cluster, and how often a configuration was parsed."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options = options_in(root)
        self.shard = shard_of(self.options.node)
        self.cluster = Cluster(self.options)
        self.news = asyncio.Event()
        self.watches = Watches(self.cluster, self.options, self.news.set)
        self.parsed: list[str] = []
        for name in ("parse_cluster", "parse_hosts"):
            monkeypatch.setattr(config, name, self._counting(name))

    def _counting(self, name: str) -> Callable[[str], object]:
        parse = getattr(config, name)

        def counted(text: str) -> object:
            self.parsed.append(name)
            return parse(text)

        return counted

    async def until(self, condition: Callable[[Observed], bool]) -> Observed:
        """Wait for what the watches are to bring."""
        async with asyncio.timeout(20):
            while not condition(self.watches.observed):
                await self.news.wait()
                self.news.clear()
        return self.watches.observed

    async def start(self) -> None:
        """Start, and wait until everything has been listed."""
        self.watches.start()
        await self.until(lambda now: now.node is not None and now.report_known and now.pods_known)


Scenario = Callable[[Agent], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(scenario: Scenario) -> None:
        asyncio.run(_started(scenario))

    async def _started(scenario: Scenario) -> None:
        await scenario(Agent(tmp_path, monkeypatch))

    return run


def label(agent: Agent, **labels: str) -> None:
    node = agent.cluster.node
    agent.cluster.put_at(NODES, {**node, "metadata": {**node["metadata"], "labels": labels}})


@pytest.mark.parametrize(
    ("labels", "hosts", "scope", "hash_"),
    [
        ({}, {}, "default", "h1"),
        ({"size": "big"}, {}, "groups.big", "h2"),
        ({}, {"node1": HOST}, "hosts.node1", "h3"),
        ({"size": "big"}, {"node1": HOST}, "hosts.node1", "h4"),
        ({}, {"other": HOST}, "default", "h1"),
    ],
)
def test_the_section_that_holds(run: Run, labels: dict[str, str], hosts: dict[str, Host], scope: str, hash_: str) -> None:
    async def scenario(agent: Agent) -> None:
        label(agent, **labels)
        agent.cluster.configure(DEFAULT, SELECTION, **GROUPS)
        agent.cluster.configure_hosts(agent.shard, **hosts)
        await agent.start()
        chosen = (await agent.until(lambda now: now.chosen is not None)).chosen
        assert chosen is not None
        assert (chosen.scope, chosen.section.hash) == (scope, hash_)

    run(scenario)


def test_a_host_may_go_by_its_hostname_label(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        shard = shard_of("host-7")
        assert shard != agent.shard
        label(agent, **{"kubernetes.io/hostname": "host-7"})
        agent.cluster.configure(DEFAULT)
        agent.cluster.configure_hosts(shard, host_7=Host({"": BY_LABEL}))
        await agent.start()
        now = await agent.until(lambda now: now.chosen is not None)
        assert now.chosen is not None
        assert (now.chosen.scope, now.chosen.section.hash) == ("hosts.host-7", "h5")
        assert now.labels == {"kubernetes.io/hostname": "host-7"}

    run(scenario)


def test_a_label_moves_the_node_to_another_group(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.configure(DEFAULT, SELECTION, **GROUPS)
        await agent.start()
        await agent.until(lambda now: now.chosen is not None and now.chosen.scope == "default")
        label(agent, size="big")
        await agent.until(lambda now: now.chosen is not None and now.chosen.scope == "groups.big")

    run(scenario)


def test_a_configuration_that_cannot_be_read_is_an_error_and_selects_nothing(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.configure_text("{")
        await agent.start()
        now = await agent.until(lambda now: bool(now.error))
        assert now.error.startswith("config.json: ")
        assert (now.chosen, now.selection) == (None, None)

    run(scenario)


def test_without_configuration_nothing_holds_and_nothing_is_selected(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.start()
        assert (agent.watches.observed.chosen, agent.watches.observed.selection) == (None, None)

    run(scenario)


def test_a_deleted_configuration_holds_on(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.configure(DEFAULT)
        await agent.start()
        await agent.until(lambda now: now.chosen is not None)
        agent.cluster.delete("/api/v1/namespaces/ns/configmaps/config")
        agent.cluster.bind(POD)
        assert (await agent.until(lambda now: bool(now.pods))).chosen is not None

    run(scenario)


def test_no_section_holds_for_a_node_that_is_deleted(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.configure(DEFAULT)
        await agent.start()
        await agent.until(lambda now: now.chosen is not None)
        agent.cluster.delete(f"{NODES}/node1")
        assert (await agent.until(lambda now: now.node is None)).chosen is None

    run(scenario)


def test_the_selection_is_known_with_the_configuration(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.configure(DEFAULT, SELECTION)
        await agent.start()
        assert (await agent.until(lambda now: now.selection is not None)).selection == SELECTION

    run(scenario)


POD = {"metadata": {"uid": "u", "name": "p", "namespace": "ns"}, "spec": {"containers": []}}


def manager(agent: Agent, phase: str = "Running", *paths: str) -> dict[str, Any]:
    """A pod that looks like another manager of CPUs, with cmk's directory and host paths."""
    volumes = [{"name": "v", "hostPath": {"path": path}} for path in (str(agent.options.install_dir), *paths)]
    containers = [{"name": "c", "image": "registry/cpusetter:1"}]
    return {**POD, "spec": {"containers": containers, "volumes": volumes}, "status": {"phase": phase}}


def test_another_manager_of_cpus_is_noticed_until_it_is_gone(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.start()
        agent.cluster.bind(manager(agent, "Running", "/sys"))
        assert "CPU-Pooler (pod ns/p)" in (await agent.until(lambda now: bool(now.other_managers))).other_managers
        agent.cluster.bind()
        await agent.until(lambda now: not now.other_managers)

    run(scenario)


@pytest.mark.parametrize("so", [("Running",), ("Pending", "/sys")], ids=["unprivileged", "pending"])
def test_a_pod_that_only_looks_like_a_manager_of_cpus_is_none(run: Run, so: tuple[str, ...]) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.start()
        agent.cluster.bind(manager(agent, *so))
        assert (await agent.until(lambda now: bool(now.pods))).other_managers == ""

    run(scenario)


def test_pods_of_an_earlier_agent_are_known_until_the_api_server_tells(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.watches.remember([Pod("old", "ns", "old", {})])
        assert list(agent.watches.observed.pods) == ["old"]
        await agent.start()
        assert list(agent.watches.observed.pods) == []
        agent.watches.remember([Pod("old", "ns", "old", {})])
        assert list(agent.watches.observed.pods) == []

    run(scenario)


def test_a_snapshot_stays_as_it_is(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        await agent.start()
        before = agent.watches.observed
        agent.cluster.bind(POD)
        await agent.until(lambda now: bool(now.pods))
        assert before.pods == {}

    run(scenario)


def test_only_what_the_configuration_depends_on_has_it_parsed_and_that_once(run: Run) -> None:
    async def scenario(agent: Agent) -> None:
        agent.cluster.configure(DEFAULT, SELECTION, **GROUPS)
        agent.cluster.configure_hosts(agent.shard, other=HOST)
        await agent.start()
        await agent.until(lambda now: now.chosen is not None)
        counts = {}

        async def count(name: str, condition: Callable[[Observed], bool]) -> None:
            await agent.until(condition)
            counts[name] = sorted(agent.parsed)
            agent.parsed.clear()

        agent.parsed.clear()
        agent.cluster.bind(POD)
        await count("pod", lambda now: bool(now.pods))
        agent.cluster.put_at(NODES, {**agent.cluster.node, "status": {"capacity": {"cpu": "8"}}})
        await count("status of the node", lambda now: now.node is not None and now.node["status"] != {})
        agent.cluster.put_at(reports.PATH, {"metadata": {"name": "node1"}})
        await count("report", lambda now: now.report is not None)
        label(agent, size="big")
        await count("label", lambda now: now.labels != {})
        agent.cluster.configure(BIG)
        await count("configuration", lambda now: now.chosen is not None and now.chosen.scope == "default")
        agent.cluster.configure_hosts(agent.shard, node1=HOST)
        await count("hosts", lambda now: now.chosen is not None and now.chosen.scope == "hosts.node1")
        once = ["parse_cluster", "parse_hosts"]
        assert counts == {
            "pod": [],
            "status of the node": [],
            "report": [],
            "label": once,
            "configuration": once,
            "hosts": once,
        }

    run(scenario)
