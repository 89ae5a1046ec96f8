"""Tables for people with the plans and states of many nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cmk.cli.report_table import aligned
from cmk.fleet.preview import FleetPlan, NodePlan, Outcome
from cmk.fleet.rollout import Row


def plan_lines(plan: FleetPlan) -> Iterator[str]:
    """One row per node, then the changes of each node, then notes, then a line of totals."""
    yield from aligned([("NODE", "SCOPE", "MOVES", "STAYS", "RESULT"), *map(_row, plan.nodes)])
    for node in plan.nodes:
        yield from _details(node)
    for note in plan.notes:
        yield f"note: {note}"
    moves = sum(len(node.moves) for node in plan.nodes)
    changing = sum(node.outcome is Outcome.CHANGES for node in plan.nodes)
    yield f"{len(plan.nodes)} nodes: {changing} change, {len(plan.blocking)} refuse; {moves} tasks move"


def verify_lines(rows: Iterable[Row]) -> Iterator[str]:
    """One row per node; failures come last, next to the line that says what is wrong."""
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
        of_pod = f" of pod {move.pod}" if move.pod else ""
        yield f"{node.node}: process {move.pid}{of_pod} moves in pool {move.pool}: CPUs {move.before} -> {move.after}"


def _lists(lists: list[str] | None) -> str:
    return "none" if lists is None else " ".join(lists) or "empty"
