"""Plans and states of many nodes as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cmk.cli.report_table import aligned
from cmk.fleet.preview import FleetPlan, NodePlan, Outcome
from cmk.fleet.rollout import Row


def plan_lines(found: FleetPlan) -> Iterator[str]:
    """One row per node, then what changes there, then notes, then a line that sums it up."""
    yield from aligned([("NODE", "SCOPE", "MOVES", "STAYS", "RESULT"), *map(_row, found.nodes)])
    for node in found.nodes:
        yield from _details(node)
    for note in found.notes:
        yield f"note: {note}"
    moves, changing = (
        sum(len(node.moves) for node in found.nodes),
        [node for node in found.nodes if node.outcome is Outcome.CHANGES],
    )
    yield f"{len(found.nodes)} nodes: {len(changing)} change, {len(found.blocking)} refuse; {moves} tasks move"


def verify_lines(rows: Iterable[Row]) -> Iterator[str]:
    """One row per node, failures last, where they are read."""
    ordered = sorted(rows, key=lambda row: (row.failed, row.node))
    yield from aligned([("NODE", "SCOPE", "STATE", "WHY"), *((row.node, row.scope, row.state, row.text) for row in ordered)])


def _row(node: NodePlan) -> tuple[str, ...]:
    return (node.node, node.scope or "-", str(len(node.moves)), str(node.stays), node.outcome)


def _details(node: NodePlan) -> Iterator[str]:
    if node.text:
        yield f"{node.node}: {node.text}"
    for name, pool in node.pools.items():
        yield f"{node.node}: pool {name}: {_lists(pool.before)} -> {_lists(pool.after)}"
    for move in node.moves:
        who = f" of pod {move.pod}" if move.pod else ""
        yield f"{node.node}: process {move.pid}{who} moves in pool {move.pool}: CPUs {move.before} -> {move.after}"


def _lists(lists: list[str] | None) -> str:
    return "none" if lists is None else " ".join(lists) or "empty"
