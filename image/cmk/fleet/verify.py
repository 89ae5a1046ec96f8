"""The wait for a roll-out: until every node has the configuration or says why not, or until time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic, sleep

import msgspec

from cmk.fleet.preview import Node, unmatched
from cmk.fleet.rollout import LATE, WAITING, Row, row_of
from cmk.model.config import ClusterConfig, Host, names_of

# A refusal may be gone with a pod that is about to end, or with the agent's next search for an older CMK, which it makes every ten seconds.
SECONDS_TO_BELIEVE = 15.0
SECONDS_BETWEEN_POLLS = 1.0
# Listing all reports is work for the API server of a large cluster: a pause takes so many times as long as the list before it.
PAUSE_PER_POLL = 5


def verify(
    wanted: ClusterConfig,
    hosts: Mapping[str, Host],
    list_nodes: Callable[[bool], Iterable[Node]],
    version: str,
    seconds: float,
    clock: Callable[[], float] = monotonic,
    pause: Callable[[float], None] = sleep,
) -> tuple[list[Row], list[str]]:
    """List the nodes again and again until none is left to wait for, for ``seconds`` at most.

    ``list_nodes`` may return what was so a moment ago, unless it is called with True: what ends the wait is looked at once more.

    Returns a row for each selected node, and notes on hosts of the configuration that match no node. ``version`` is that of the agents that
    are to report. Raises ApiError.
    """
    began = clock()
    failed_since: dict[str, float] = {}
    is_certain = False
    while True:
        polled = clock()
        rows, names = [], set()
        for node in list_nodes(is_certain):
            names.update(names_of(node.name, node.labels))
            if wanted.selection.matches(node.name, node.labels):
                rows.append(row_of(wanted, hosts, node, version))
        now = clock()
        failed_since = {row.node: failed_since.get(row.node, now) for row in rows if row.failed}
        awaited = [row for row in rows if row.state == WAITING]
        awaited += [row for row in rows if row.failed and now - failed_since[row.node] < SECONDS_TO_BELIEVE]
        if (not awaited and is_certain) or now - began >= seconds:
            final = [msgspec.structs.replace(row, state=LATE) if row.state == WAITING else row for row in rows]
            return final, unmatched(hosts, names)
        is_certain = not awaited
        if awaited:
            pause(max(SECONDS_BETWEEN_POLLS, PAUSE_PER_POLL * (now - polled)))
