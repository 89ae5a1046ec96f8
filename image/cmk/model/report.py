"""The contents of ``describe``, ``node-report`` and the NodeReport object, in the shapes that CMK 1.5.x printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from enum import IntEnum
from typing import Any

import msgspec

from cmk.model import cpuset
from cmk.model.choice import OLD_NAMES
from cmk.model.isolation_config import CONFLICT, IMPOSSIBLE, ON, LayerState
from cmk.model.ledger import Ledger
from cmk.model.reasons import Obstacle, Reason
from cmk.model.tasks import Process
from cmk.model.topology import Topology, difference


class Condition(msgspec.Struct, frozen=True):
    """One Kubernetes condition without its transition time, which belongs to the object that has the condition."""

    type: str
    status: bool
    reason: Obstacle | Reason
    message: str = ""


class Reduction(IntEnum):
    """What is left out of a report that the API server refuses as it is: tasks of shared pools, then all that only a plan needs too."""

    NONE = 0
    SHARED_TASKS = 1
    PLAN = 2


class Refusal(msgspec.Struct, frozen=True):
    """The reduction with which a report was not refused, and the API server's words about a larger one."""

    reduction: Reduction = Reduction.NONE
    text: str = ""


def describe(ledger: Ledger, path: str, listed: Set[Process] | None = None) -> dict[str, Any]:
    """Pools, lists and the host pids on them (``cmk describe``).

    With ``listed``, tasks of shared pools that are not among them are left out, and each list tells in ``tasksNotListed`` how many.
    """
    pools = {}
    for name, pool in sorted(ledger.layout.pools.items()):
        users = ledger.users(name)
        lists: dict[str, dict[str, Any]] = {}
        for item in pool.lists:
            shown = [task for task in users[item.name] if pool.exclusive or listed is None or task.process in listed]
            lists[item.name] = {"cpus": item.name, "tasks": sorted(task.process.pid for task in shown)}
            if len(shown) < len(users[item.name]):
                lists[item.name]["tasksNotListed"] = len(users[item.name]) - len(shown)
        pools[name] = {"cpuLists": lists, "exclusive": pool.exclusive, "name": name}
    return {"path": path, "pools": pools}


def use_old_names(pools: dict[str, Any]) -> None:
    """Give the pools of a description kcm's names, in place."""
    for old, new in OLD_NAMES.items():
        if new in pools:
            pools[old] = {**pools.pop(new), "name": old}


def node_report(ledger: Ledger, topology: Topology, path: str, made_for: Topology | None = None) -> dict[str, Any]:
    """The node's report (``cmk node-report``); ``made_for`` as for ``check``."""
    return {
        "checks": checks(check(ledger, topology, made_for)),
        "description": describe(ledger, path),
        "topology": describe_topology(topology),
    }


def checks(errors: list[str]) -> dict[str, Any]:
    """The result of ``check`` in CMK's shape."""
    return {"configDirectory": {"errors": errors, "ok": not errors}}


def describe_topology(topology: Topology) -> dict[str, Any]:
    """Sockets, cores and CPUs with their isolation."""
    return {
        "sockets": {
            str(socket): {
                "cores": [
                    {
                        "cpus": [{"id": cpu, "isolated": cpu in core.isolated_cpus} for cpu in sorted(core.cpus)],
                        "id": core.id,
                    }
                    for core in topology.cores
                    if core.socket == socket
                ],
                "id": socket,
            }
            for socket in topology.sockets
        }
    }


def check(ledger: Ledger, topology: Topology, made_for: Topology | None = None) -> list[str]:
    """Contradictions between pools, or between pools and the machine, as error texts; empty when there are none.

    ``made_for`` is the machine that the layout was made for, if that is known.
    """
    changed = difference(topology, made_for) if made_for is not None else ""
    errors = [changed] if changed else []
    lists = [(f"{pool.name}:{item.name}", item.cpus) for pool in ledger.layout.pools.values() for item in pool.lists]
    for index, (name, cpus) in enumerate(lists):
        errors += [
            f"CPU list overlap detected in {name} and {other} (in both: {sorted(cpus & others)})"
            for other, others in lists[index + 1 :]
            if cpus & others
        ]
        if offline := cpus - topology.cpus:
            errors.append(f"CPU list {name} has CPUs that are not online: {cpuset.kernel_list(offline)}")
    whole = {core.cpus for core in topology.cores}
    for pool in ledger.layout.pools.values():
        errors += [
            f"CPU list {pool.name}:{item.name} of an exclusive pool is no whole core"
            for item in pool.lists
            if pool.exclusive and item.cpus <= topology.cpus and item.cpus not in whole
        ]
    return errors


def pool_counts(ledger: Ledger) -> dict[str, dict[str, int]]:
    """Lists, free lists and tasks of every pool, for the object's printer columns."""
    counts = {}
    for name in ledger.layout.pools:
        users = ledger.users(name)
        counts[name] = {
            "lists": len(users),
            "free": sum(not tasks for tasks in users.values()),
            "tasks": len({task.process for tasks in users.values() for task in tasks}),
        }
    return counts


def isolation_conditions(states: Mapping[str, LayerState]) -> list[Condition]:
    """The conditions ``Isolated`` (every requested layer works) and ``Conflict`` (another manager of the CPUs, named in the message)."""
    refused = [f"isolation.{name}: {layer.reason}" for name, layer in states.items() if layer.state == CONFLICT]
    failed = [f"isolation.{name}: {layer.reason}" for name, layer in states.items() if layer.state == IMPOSSIBLE]
    on = [name for name, layer in states.items() if layer.state == ON]
    if refused or failed:
        isolated = Condition("Isolated", False, Reason.CONFLICT if refused else Reason.NOT_POSSIBLE, "; ".join(refused + failed))
    elif on:
        isolated = Condition("Isolated", True, Reason.LAYERS_ON, f"on: {', '.join(on)}")
    else:
        isolated = Condition(
            "Isolated", False, Reason.LAYERS_OFF, "no layer is on: exclusive cores are shared with processes in no pool"
        )
    if refused:
        return [isolated, Condition("Conflict", True, Reason.OTHER_MANAGER, "; ".join(refused))]
    return [isolated, Condition("Conflict", False, Reason.NONE, "")]


def merge_conditions(old: Iterable[dict[str, Any]], new: Iterable[Condition], now: str) -> list[dict[str, Any]]:
    """Conditions as objects of the API; the transition time of one changes only when its status does."""
    since = {item.get("type"): item for item in old}
    merged = []
    for condition in new:
        status = "True" if condition.status else "False"
        before = since.get(condition.type) or {}
        same = before.get("status") == status and "lastTransitionTime" in before
        merged.append(
            {
                "type": condition.type,
                "status": status,
                "reason": condition.reason.value,
                "message": condition.message,
                "lastTransitionTime": before["lastTransitionTime"] if same else now,
            }
        )
    return merged


def reduced_condition(refusal: Refusal, not_listed: Mapping[str, int]) -> Condition:
    """The condition ``Reduced``: whether and why the report leaves something out. ``not_listed``: pool → tasks that are only counted."""
    if refusal.reduction is Reduction.NONE and not not_listed:
        return Condition("Reduced", False, Reason.NONE, "")
    tasks = ", ".join(f"{count} tasks of pool {name}" for name, count in sorted(not_listed.items()))
    if refusal.reduction is Reduction.NONE:
        return Condition("Reduced", True, Reason.MANY_TASKS, f"counted, but not listed: {tasks}")
    what = "tasks of shared pools" if refusal.reduction is Reduction.SHARED_TASKS else "tasks, topology and all that a plan needs"
    return Condition("Reduced", True, Reason.REPORT_REFUSED, f"without {what}, for the API server refused more: {refusal.text}")


def bounded(value: Any, longest: int, most: int) -> Any:  # noqa: ANN401  # values of JSON
    """JSON values with every text cut to ``longest`` characters, every list to ``most`` items; a text at its end counts the others."""
    if isinstance(value, str):
        return value if len(value) <= longest else f"{value[: longest - 3]}..."
    if isinstance(value, dict):
        return {key: bounded(item, longest, most) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [bounded(item, longest, most) for item in value[:most]]
        more = f"and {len(value) - most} more"
        return items if len(value) <= most else [*items, {"name": more} if isinstance(value[0], dict) else more]
    return value
