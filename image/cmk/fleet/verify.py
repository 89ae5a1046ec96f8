"""Waits until every node has what the configuration says, or until time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from time import monotonic, sleep

import msgspec

from cmk.fleet.preview import Node, unmatched
from cmk.fleet.rollout import SILENT, WAITING, Row, row
from cmk.model.config import ClusterConfig, Host, names_of

# A refusal may be gone with a pod that is about to end, or with the agent's next search for an older CMK, which it makes every ten seconds.
SECONDS_TO_BELIEVE = 15.0
SECONDS_BETWEEN_LOOKS = 1.0
# All reports of a large cluster are some work for its API server: most of the time it is to have something else to do.
LOOKS_PER_PAUSE = 5


def verify(
    wanted: ClusterConfig,
    hosts: Mapping[str, Host],
    look: Callable[[], Iterable[Node]],
    version: str,
    seconds: float,
    clock: Callable[[], float] = monotonic,
    pause: Callable[[float], None] = sleep,
) -> tuple[list[Row], list[str]]:
    """Look again and again until nothing is left to wait for; returns a row for each selected node, and notes on hosts that are none.

    ``version`` is what agents have to be of. Raises ApiError.
    """
    began = clock()
    doubted_since: dict[str, float] = {}
    while True:
        looked = clock()
        rows, names = [], set()
        for node in look():
            names.update(names_of(node.name, node.labels))
            if wanted.selection.matches(node.name, node.labels):
                rows.append(row(wanted, hosts, node, version))
        now = clock()
        doubted_since = {found.node: doubted_since.get(found.node, now) for found in rows if found.failed}
        waits = [found for found in rows if found.state == WAITING]
        waits += [found for found in rows if found.failed and now - doubted_since[found.node] < SECONDS_TO_BELIEVE]
        if not waits or now - began >= seconds:
            ended = [msgspec.structs.replace(found, state=SILENT) if found.state == WAITING else found for found in rows]
            return ended, unmatched(hosts, names)
        pause(max(SECONDS_BETWEEN_LOOKS, LOOKS_PER_PAUSE * (now - looked)))
