"""A node's state as its NodeReport has it: nothing is said twice, so lists, pids and topology are read where the report tells them.

``status.state`` has the rest. There are as many tasks and pods as a node has cores, with ids and names of any length; these are cut to
what a plan tells of them, and compressed.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from cmk.model import cpuset, node_state, short_topology
from cmk.model.config import PoolConfig, Section
from cmk.model.cpuset import CpuSetError
from cmk.model.layout import CpuList, Layout, Pool
from cmk.model.node_state import NodeState, NodeStateError
from cmk.model.onmove import How, OnMove
from cmk.model.pods import Pod, pool_of, resource_of
from cmk.model.tasks import Process, Task
from cmk.model.topology import Topology

# A plan names a container by so many characters of its id, as container runtimes do.
CONTAINER_CHARACTERS = 12
# Of a longer name of a pod, beginning and end.
LONGEST_NAME = 64
# What a report decompresses to is a few hundred bytes per core.
_MOST_BYTES = 64 * 1024 * 1024
_NO_POD = -1


class _Holders(msgspec.Struct, frozen=True):
    """Pods and tasks, in columns: what is alike side by side takes half as much when compressed.

    Of pods: ``requests`` is pool → number of lists; without a namespace nothing is known of a pod but ``names``, its uid. Of tasks, in the
    order of the description: ``pods`` are indices; ``containers``, of which none has a blank, are one text.
    """

    namespaces: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    requests: tuple[dict[str, int], ...] = ()
    pods: tuple[int, ...] = ()
    sockets: tuple[int, ...] = ()
    hows: tuple[How, ...] = ()
    containers: str = ""


class _State(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """``status.state``.

    ``pools`` are as configured, None on a node without pools. ``sockets`` is that of each list whose CPUs the topology does not have.
    ``labels`` and ``no_labels`` are all labels that a configuration was seen to use: those that the node has, and the keys of others.
    """

    pools: dict[str, dict[str, Any]] | None = None
    reserved: str = ""
    outside: str = ""
    sockets: dict[str, int] = {}
    labels: dict[str, str] = {}
    no_labels: tuple[str, ...] = ()
    holders: str = ""
    outdated: bool = False


def dump(state: NodeState, description: Mapping[str, Any], labels_used: Iterable[str] = ()) -> dict[str, Any]:
    """``status.state`` as JSON values. ``description`` is that of the report, and has the state's tasks and no others."""
    section, pools = state.section, state.layout.pools if state.layout else {}
    socket_of = _socket_of(state.topology)
    used = frozenset(labels_used)
    values: dict[str, Any] = msgspec.to_builtins(
        _State(
            {name: _without_defaults(pool) for name, pool in section.pools.items()} if section else None,
            section.reserved if section else "",
            short_topology.text_of(sorted(state.outside)),
            {item.name: item.socket for pool in pools.values() for item in pool.lists if socket_of(item.name) != item.socket},
            {key: value for key, value in sorted(state.labels.items()) if key in used},
            tuple(sorted(used - state.labels.keys())),
            _packed(_holders(state, description)),
            state.is_outdated,
        ),
        order="sorted",
    )
    return values


def load(report: Mapping[str, Any]) -> NodeState | None:
    """The state in a NodeReport, also in one of an agent that wrote it in full; None if it has none. Raises NodeStateError."""
    status = report.get("status") or {}
    if "state" not in status:
        return None
    values = status["state"]
    if isinstance(values, dict) and "topology" in values:
        return node_state.load(values)
    try:
        return _load(msgspec.convert(values, _State), report["spec"]["report"], status)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, CpuSetError, zlib.error) as error:
        raise NodeStateError(f"{type(error).__name__}: {error}") from error


def labels_of(report: Mapping[str, Any]) -> tuple[dict[str, str], frozenset[str] | None]:
    """Labels of the node as its report has them, and the keys that it tells about, None for all. Raises NodeStateError."""
    values = (report.get("status") or {}).get("state") or {}
    if isinstance(values, dict) and "topology" in values:
        return node_state.load(values).labels, None
    try:
        state = msgspec.convert(values, _State)
    except msgspec.ValidationError as error:
        raise NodeStateError(str(error)) from error
    return state.labels, frozenset(state.labels) | frozenset(state.no_labels)


def _load(state: _State, report: Mapping[str, Any], status: Mapping[str, Any]) -> NodeState:
    topology = short_topology.load(report["topology"], status.get("isolatedFrom") or ())
    outside = cpuset.parse(state.outside)
    if state.pools is None:
        return NodeState(topology, outside=outside, labels=state.labels)
    description, socket_of = report["description"]["pools"], _socket_of(topology)
    lists = {
        pool: [CpuList(cpuset.parse(name), state.sockets.get(name, socket_of(name))) for name in _by_first_cpu(found["cpuLists"])]
        for pool, found in description.items()
    }
    layout = Layout({pool: Pool(pool, bool(found["exclusive"]), tuple(lists[pool])) for pool, found in description.items()})
    holders = _unpacked(state.holders)
    rows = list(zip(holders.namespaces, holders.names, holders.requests, strict=True))
    # A pod's index is as good as its uid, and has the same order.
    uids = [f"{index:06}" if namespace else name for index, (namespace, name, _) in enumerate(rows)]
    pods = [
        Pod(uid, namespace, name, {resource_of(pool): count for pool, count in requests.items()})
        for uid, (namespace, name, requests) in zip(uids, rows, strict=True)
        if namespace
    ]
    columns = zip(holders.pods, holders.containers.split(" "), holders.sockets, holders.hows, strict=True) if holders.pods else ()
    tasks = [
        Task(
            Process(pid, 0),
            pool,
            tuple(names),
            "" if pod == _NO_POD else uids[pod],
            container,
            socket=socket,
            on_move=OnMove(how),
        )
        for ((pool, pid), names), (pod, container, socket, how) in zip(_tasks_in(description), columns, strict=True)
    ]
    not_listed = {
        pool: sum(item.get("tasksNotListed", 0) for item in found["cpuLists"].values()) for pool, found in description.items()
    }
    return NodeState(
        topology,
        layout,
        Section(msgspec.convert(state.pools, dict[str, PoolConfig]), str(status.get("configHash", "")), reserved=state.reserved),
        tuple(sorted(tasks, key=lambda task: task.process)),
        tuple(pods),
        outside,
        state.labels,
        {pool: count for pool, count in not_listed.items() if count},
        state.outdated,
    )


def _holders(state: NodeState, description: Mapping[str, Any]) -> _Holders:
    rows = [(pod.namespace, _cut(pod.name), {pool_of(name): count for name, count in pod.grants.items()}) for pod in state.pods]
    index = {uid: number for number, pod in enumerate(state.pods) for uid in (pod.uid, pod.config_hash) if uid}
    by_pid = {(task.pool, task.process.pid): task for task in state.tasks}
    tasks = [by_pid[key] for key, _ in _tasks_in(description["pools"])]
    for uid in dict.fromkeys(task.pod for task in tasks):
        if uid and uid not in index:
            index[uid] = len(rows)
            rows.append(("", _cut(uid), {}))
    namespaces, names, requests = zip(*rows, strict=True) if rows else ((), (), ())
    return _Holders(
        namespaces,
        names,
        requests,
        tuple(index.get(task.pod, _NO_POD) for task in tasks),
        tuple(task.socket for task in tasks),
        tuple(task.on_move.how for task in tasks),
        " ".join(task.container[:CONTAINER_CHARACTERS] for task in tasks),
    )


def _without_defaults(pool: PoolConfig) -> dict[str, Any]:
    defaults = {field.encode_name: field.default for field in msgspec.structs.fields(PoolConfig)}
    return {key: value for key, value in msgspec.to_builtins(pool).items() if value != defaults[key]}


def _tasks_in(pools: Mapping[str, Any]) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Pool, pid and lists of each task of a description, in an order that does not depend on that of its keys."""
    lists: dict[tuple[str, int], list[str]] = {}
    for pool in sorted(pools):
        for name in _by_first_cpu(pools[pool]["cpuLists"]):
            for pid in pools[pool]["cpuLists"][name]["tasks"]:
                lists.setdefault((pool, pid), []).append(name)
    yield from lists.items()


def _by_first_cpu(lists: Iterable[str]) -> list[str]:
    return sorted(lists, key=lambda name: int(name.partition(",")[0]))


def _socket_of(topology: Topology) -> Callable[[str], int]:
    """The socket of a list by its name, as the topology tells; -1 if it has not all its CPUs."""
    by_cpu = {cpu: core.socket for core in topology.cores for cpu in core.cpus}

    def socket_of(name: str) -> int:
        sockets = {by_cpu.get(int(cpu), -1) for cpu in name.split(",")}
        return sockets.pop() if len(sockets) == 1 else -1

    return socket_of


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}...{name[3 - LONGEST_NAME // 2 :]}"


def _packed(holders: _Holders) -> str:
    return base64.b64encode(zlib.compress(msgspec.json.encode(holders), 9)).decode() if holders != _Holders() else ""


def _unpacked(text: str) -> _Holders:
    if not text:
        return _Holders()
    stream = zlib.decompressobj()
    raw = stream.decompress(base64.b64decode(text, validate=True), _MOST_BYTES)
    if not stream.eof:
        raise ValueError("what is packed is cut, or too long")
    return msgspec.json.decode(raw, type=_Holders)
