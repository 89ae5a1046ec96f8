"""How many lists of each pool a node advertises as an extended resource, and how many its pods request or hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from cmk.model.layout import Layout
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Task


def requested(pods: Iterable[Pod], resource: str) -> int:
    """What the pods that have not ended request of a resource together."""
    return sum(pod.grants.get(resource, 0) for pod in pods if not pod.terminal)


def demand(pool: str, tasks: Iterable[Task], pods: Iterable[Pod]) -> dict[str, int]:
    """Lists that each pod has or may still ask for, the larger of both: uid → number, the empty uid for tasks outside pods."""
    found: dict[str, int] = {}
    bound = list(pods)
    # A static pod's cgroup, and so its tasks, have another name than the pod on the API.
    uids = {pod.config_hash: pod.uid for pod in bound if pod.config_hash}
    for task in tasks:
        if task.pool == pool:
            uid = uids.get(task.pod, task.pod)
            found[uid] = found.get(uid, 0) + len(task.lists)
    for pod in bound:
        if granted := pod.grants.get(resource_of(pool), 0):
            found[pod.uid] = max(found.get(pod.uid, 0), granted)
    return found


def offered(now: Layout, coming: Layout, tasks: Iterable[Task], pods: Iterable[Pod]) -> dict[str, int]:
    """Lists to advertise while a change waits or is made, by resource: what both layouts have, but never less than is held or requested.

    Nobody is to be sent to a node for what goes; what comes is advertised when it is there.
    """
    booked, bound, found = list(tasks), list(pods), {}
    for name, pool in now.pools.items():
        if pool.exclusive:
            after = coming.pools.get(name)
            both = min(len(pool.lists), len(after.lists) if after and after.exclusive else 0)
            count = max(both, min(sum(demand(name, booked, bound).values()), len(pool.lists)))
            if count or (after and after.exclusive):
                found[resource_of(name)] = count
    return found


def advertise(lists: Mapping[str, int], current: Mapping[str, int], demand_of: Callable[[str], int | None]) -> dict[str, int]:
    """Lists per resource, but never less than bound pods request: kubelet ends running pods at its next restart when the node has less.

    Pods that were let in cannot request more than the node has, so ``current`` bounds what a stray request could add. An unknown
    demand (None) keeps what is there.
    """
    wanted = dict(lists)
    for name, now in current.items():
        asked = demand_of(name)
        keep = now if asked is None else min(asked, now)
        if keep > wanted.get(name, 0):
            wanted[name] = keep
    return wanted
