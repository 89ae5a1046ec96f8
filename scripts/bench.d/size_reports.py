"""Bytes of a NodeReport as its agent sends it, and bytes that one look at all nodes of a cluster reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from cmk.agent import node_report
from cmk.agent.files import StateFiles
from cmk.agent.node_layout import NodeLayout
from cmk.agent.observed import Observed
from cmk.agent.options import Options
from cmk.agent.stalls import Stalls
from cmk.fleet import cluster_nodes
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
IMAGES = 50  # of a Node object: kubelet lists so many
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
        self._count = count
        self._objects = {cluster_nodes.NODES: _node(), reports.PATH: _stored(report)}
        self.read = dict.fromkeys(self._objects, 0)

    def get(self, path: str, **parameters: str) -> Json:
        """One page of a list."""
        first = int(parameters.get("continue", 0))
        end = min(first + int(parameters["limit"]), self._count)
        one, metadata = self._objects[path], {"resourceVersion": "123456789"}
        items = [{**one, "metadata": {**one["metadata"], "name": f"worker-{number:05}"}} for number in range(first, end)]
        if end < self._count:
            metadata["continue"] = str(end)
        page = {"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items}
        self.read[path] += len(msgspec.json.encode(page))
        return page


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
    """Bytes of all answers to one look of verify, by path."""
    api = Listed(nodes, report)
    for _ in cluster_nodes.nodes(api):
        pass
    return api.read


def _task(number: int, pool: str, name: str, pod: Pod) -> Task:
    return Task(Process(1_000_000 + number, 77_700_000 + number), pool, (name,), pod.uid, f"{number:064x}")


def _stored(report: Json) -> Json:
    """A report as the API server answers with it: with metadata, of which the fields that the agent manages are the longest."""
    fields = {f"f:{part}": _fields(report[part]) for part in ("spec", "status")}
    entry = {
        "manager": "cmk",
        "operation": "Update",
        "apiVersion": reports.GROUP,
        "time": "2025-01-01T00:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    own = {"uid": "0" * 36, "resourceVersion": "123456789", "generation": 100, "creationTimestamp": "2025-01-01T00:00:00Z"}
    return {**report, "metadata": {**own, "managedFields": [entry]}}


def _fields(value: object) -> Json:
    """FieldsV1 of a value: a list is one field, as it is where a definition says nothing about it."""
    return {".": {}, **{f"f:{key}": _fields(item) for key, item in value.items()}} if isinstance(value, dict) else {}


def _node() -> Json:
    """A Node object, most of which are the names of its images."""
    digest = "registry.example.com/team/workload@sha256:" + "0" * 64
    images = [
        {"names": [digest, f"registry.example.com/team/workload:v{number}"], "sizeBytes": 100_000_000} for number in range(IMAGES)
    ]
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is posting ready status"}
    return {
        "metadata": {"labels": {"kubernetes.io/hostname": "worker-00000", "cmk-node": "enabled"}},
        "spec": {"podCIDR": "10.0.0.0/24"},
        "status": {"conditions": [ready], "images": images},
    }
