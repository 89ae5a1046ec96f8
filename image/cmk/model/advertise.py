"""Numbers of lists of each pool: how many a node advertises as an extended resource, how many its pods request, how many they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cmk.model.layout import Layout
from cmk.model.pods import Pod, resource_of
from cmk.model.tasks import Task


def requested(pods: Iterable[Pod], resource: str, most: int) -> int:
    """Sum of a resource over the requests of all pods that have not ended, except those that request more than the ``most`` there is."""
    return sum(pod.granted(resource, most) for pod in pods if not pod.terminal)


def demand(pool: str, tasks: Iterable[Task], pods: Iterable[Pod], most: int) -> dict[str, int]:
    """Lists of a pool that each pod holds or requests, whichever is more: uid → number. The empty uid stands for tasks outside pods.

    The pool has ``most`` lists; a request for more is none.
    """
    counts: dict[str, int] = {}
    bound = list(pods)
    # A static pod's cgroup, and so its tasks, have another name than the pod on the API.
    uids = {pod.config_hash: pod.uid for pod in bound if pod.config_hash}
    for task in tasks:
        if task.pool == pool:
            uid = uids.get(task.pod, task.pod)
            counts[uid] = counts.get(uid, 0) + len(task.lists)
    for pod in bound:
        if granted := pod.granted(resource_of(pool), most):
            counts[pod.uid] = max(counts.get(pod.uid, 0), granted)
    return counts


def offered(now: Layout, coming: Layout, tasks: Iterable[Task], pods: Iterable[Pod]) -> dict[str, int]:
    """Lists to advertise while a change waits or runs: resource → number that both layouts have, at least as many as held or requested.

    Lists that are about to go are not advertised any more; new lists are advertised only once they exist.
    """
    all_tasks, bound, counts = list(tasks), list(pods), {}
    for name, pool in now.pools.items():
        if pool.exclusive:
            after = coming.pools.get(name)
            both = min(len(pool.lists), len(after.lists) if after and after.exclusive else 0)
            count = max(both, min(sum(demand(name, all_tasks, bound, len(pool.lists)).values()), len(pool.lists)))
            if count or (after and after.exclusive):
                counts[resource_of(name)] = count
    return counts


def advertise(lists: Mapping[str, int], current: Mapping[str, int], pods: Iterable[Pod] | None) -> dict[str, int]:
    """Number to advertise per resource: ``lists``, but never less than bound pods request.

    When a node has less, kubelet ends running pods at its next restart. ``current`` is what the node advertises now: pods that were
    admitted cannot request more. ``pods`` are those bound to it; while they are not known (None), the current number is kept.
    """
    numbers, bound = dict(lists), None if pods is None else list(pods)
    for name, now in current.items():
        kept = now if bound is None else min(requested(bound, name, now), now)
        if kept > numbers.get(name, 0):
            numbers[name] = kept
    return numbers
