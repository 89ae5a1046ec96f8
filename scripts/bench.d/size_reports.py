"""Bytes of a NodeReport as its agent sends it, and bytes that one look at all nodes of a cluster reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from tests.unit.fleet.fleets import report_table, table

from cmk.agent import node_report
from cmk.agent.files import StateFiles
from cmk.agent.node_layout import NodeLayout
from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.agent.stalls import Stalls
from cmk.fleet import cluster_nodes
from cmk.fleet.looks import Looks
from cmk.host.procfs import Procfs
from cmk.isolation.layers import Layers
from cmk.kube import reports
from cmk.model import config, layout
from cmk.model.config import PoolConfig, Section
from cmk.model.layout import SavedLayout
from cmk.model.ledger import Ledger
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Process, Task
from cmk.model.topology import Core, Topology

SHARED_CORES = INFRA_CORES = 4
# What kubectl get nodes -o wide prints.
NODE_ROW = {
    "Name": "",
    "Status": "Ready",
    "Roles": "<none>",
    "Age": "100d",
    "Version": "v1.34.2",
    "Internal-IP": "10.20.30.40",
    "External-IP": "<none>",
    "OS-Image": "Debian GNU/Linux 12 (bookworm)",
    "Kernel-Version": "6.1.0-40-rt-amd64",
    "Container-Runtime": "containerd://2.1.4",
}
Json = dict[str, Any]


class SentTo:
    """The API server to which an agent sends its first report."""

    body: Json

    def create(self, _: str, body: Json) -> Json:
        """Note what is sent."""
        self.body = body
        return body


class Listed:
    """The API server that lists so many nodes with the same report, and counts the bytes of its answers by path."""

    def __init__(self, count: int, report: Json) -> None:
        self._names = [f"worker-{number:05}" for number in range(count)]
        self._tables = {
            cluster_nodes.NODES: table([*NODE_ROW], [[name, *list(NODE_ROW.values())[1:]] for name in self._names]),
            reports.PATH: report_table(dict.fromkeys(self._names, report)),
        }
        self.read = dict.fromkeys(self._tables, 0)

    def table(self, path: str, **_: str) -> list[Json]:
        """A list as a table."""
        found = self._tables[path]
        self.read[path] += len(msgspec.json.encode(found))
        names = [column["name"] for column in found["columnDefinitions"]]
        return [dict(zip(names, row["cells"], strict=True)) for row in found["rows"]]

    def metadata(self, *_: str, **__: str) -> Json:
        """Labels, which only the first look reads: a list of their own."""
        return {"items": [{"metadata": {"name": name}} for name in self._names]}


def full_report(root: Path, cpus: int, shared_tasks: int) -> Json:
    """The report, as its agent sends it, of a node of two sockets with two threads per core on which each exclusive core has an owner."""
    cores = cpus // 2
    topology = Topology(tuple(Core(core, 2 * core // cores, frozenset({core, core + cores})) for core in range(cores)))
    exclusive = cores - SHARED_CORES - INFRA_CORES
    requests = {
        "exclusive": PoolConfig(cores=exclusive, exclusive=True),
        "shared": PoolConfig(cores=SHARED_CORES),
        "infra": PoolConfig(cores=config.REST),
    }
    origins = {f"{name}.{key}": "default" for name in requests for key in ("cores", "mode")}
    section = Section(requests, "0123456789abcdef", origins=origins)
    saved = SavedLayout(layout.compute(topology, section.pools), section, "default", topology)
    pods = [
        Pod(f"{number:08x}-0000-4000-8000-000000000000", "default", f"workload-{number}-abcde", {})
        for number in range(exclusive + 10)
    ]
    pods[:exclusive] = [msgspec.structs.replace(pod, grants={resource_of("exclusive"): 1}) for pod in pods[:exclusive]]
    lists = saved.layout.pools["exclusive"].lists
    tasks = [_task(number, "exclusive", item.name, pods[number]) for number, item in enumerate(lists)]
    shared = saved.layout.pools["shared"].lists[0].name
    tasks += [_task(exclusive + number, "shared", shared, pods[exclusive + number % 10]) for number in range(shared_tasks)]
    ledger = Ledger(saved.layout, tasks)
    options = Options("worker-00000", "cmk", "c", "h", root, root, root, root)
    procfs = Procfs()
    node = NodeLayout(options.node, StateFiles(options, procfs), topology)
    node.outside = frozenset()  # else the CPUs that do not exist here
    layers = Layers(options.host_paths, procfs, ledger, topology, lambda: None)
    observed = Observed(pods={pod.uid: pod for pod in pods})
    body = node_report.body(node, node_report.served(node, saved, ledger, layers, None, observed, "/var/lib/cmk"), None, Stalls())
    api = SentTo()
    reports.put(api, options.node, body, None)
    return api.body


def bytes_sent(report: Json) -> int:
    """Bytes of the request, which the kubernetes client's transport writes with spaces."""
    return len(json.dumps(report))


def bytes_read(nodes: int, report: Json) -> dict[str, int]:
    """Bytes of all answers to a look of verify that is not its first, by path."""
    api = Listed(nodes, report)
    if sum(1 for _ in Looks(api)(False)) != nodes:
        raise SystemExit("bench: a look has not seen all nodes")
    return api.read


def _task(number: int, pool: str, name: str, pod: Pod) -> Task:
    return Task(Process(1_000_000 + number, 77_700_000 + number), pool, (name,), pod.uid, f"{number:064x}")
