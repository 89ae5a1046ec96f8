from __future__ import annotations

from collections.abc import Iterable

from cmk.fleet import verify
from cmk.fleet.preview import Node
from cmk.fleet.rollout import Row
from cmk.model.config import ClusterConfig, Host, Selection
from cmk.model.reasons import Obstacle
from tests.unit.fleet.fleets import config, node, section

DONE, OLD = node("a"), node("a", exclusive=1)
REFUSED = node("a", exclusive=1, pending={"hash": "h2", "reason": Obstacle.CONFIG_REFUSED.value, "text": "why"})


def watch(views: Iterable[Node], seconds: float = 60) -> tuple[list[Row], float]:
    """The rows at the end, and when it came; the last view stays."""
    now, left, last = 0.0, list(views), [DONE]

    def look(is_certain: bool) -> list[Node]:
        last[0] = left.pop(0) if left else last[0]
        return [last[0]]

    def pause(length: float) -> None:
        nonlocal now
        now += length

    rows, _ = verify.verify(config(2), {}, look, "1", seconds, lambda: now, pause)
    return rows, now


def test_nothing_to_wait_for_is_not_waited_for() -> None:
    rows, took = watch([DONE])
    assert ([row.state for row in rows], took) == (["applied"], 0)


def test_a_node_is_given_time() -> None:
    rows, took = watch([OLD, OLD, DONE])
    assert ([row.state for row in rows], took) == (["applied"], 2)


def test_time_is_up_for_a_node_that_does_not_answer() -> None:
    rows, took = watch([OLD], seconds=5)
    assert ([(row.state, row.failed) for row in rows], took) == ([("not in time", True)], 5)


def test_a_refusal_is_believed_when_it_lasts() -> None:
    rows, took = watch([REFUSED])
    assert ([row.state for row in rows], took) == (["refused"], verify.SECONDS_TO_BELIEVE)


def not_ready(reason: Obstacle) -> Node:
    ready = {"type": "Ready", "status": "False", "reason": reason.value, "message": "because"}
    return node("a", configHash="", conditions=[ready])


def test_an_agent_that_cannot_adopt_the_old_pools_is_not_waited_for() -> None:
    rows, took = watch([not_ready(Obstacle.ADOPTION_REFUSED)])
    assert [(row.state, row.text, row.failed) for row in rows] == [("impossible", "because", True)]
    assert took == verify.SECONDS_TO_BELIEVE


def test_an_old_cmk_that_still_ends_is_waited_for() -> None:
    rows, took = watch([*[not_ready(Obstacle.OLD_CMK_RUNS)] * 40, DONE])
    assert ([row.state for row in rows], took) == (["applied"], 40)


def test_a_refusal_that_passes_is_forgotten() -> None:
    rows, took = watch([REFUSED, REFUSED, DONE])
    assert ([row.state for row in rows], took) == (["applied"], 2)


def test_a_large_cluster_is_looked_at_less_often() -> None:
    now, pauses = 0.0, []

    def look(is_certain: bool) -> list[Node]:
        nonlocal now
        now += 3
        return [OLD if not pauses else DONE]

    verify.verify(config(2), {}, look, "1", 60, lambda: now, pauses.append)
    assert pauses == [3 * verify.PAUSE_PER_POLL]


def test_a_node_that_is_not_selected_is_nobodys_business() -> None:

    assert verify.verify(ClusterConfig(Selection(), section(2)), {}, lambda _: [OLD], "1", 60) == ([], [])


def test_hosts_that_match_no_node_are_named() -> None:
    hosts = {"a": Host({"": section(2)}, scope="hosts.a"), "b": Host({"": section(2)}, scope="hosts.b")}
    assert verify.verify(config(2), hosts, lambda _: [DONE], "1", 60)[1] == ["hosts.b matches no node"]


def test_what_ends_the_wait_is_looked_at_once_more() -> None:
    asked = []

    def look(is_certain: bool) -> list[Node]:
        asked.append(is_certain)
        return [DONE if len(asked) in (1, 3, 4) else OLD]

    rows, _ = verify.verify(config(2), {}, look, "1", 60, lambda: 0.0, lambda _: None)
    assert asked == [False, True, False, True]
    assert [row.state for row in rows] == ["applied"]
