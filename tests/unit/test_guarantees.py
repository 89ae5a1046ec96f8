"""docs/guarantees.md names tests that exist: at least one for each promise."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("| ") else []
    for line in (REPO / "docs/guarantees.md").read_text().splitlines()
]
PROMISES = [row for row in ROWS if row and row[0] != "Promise"]
NAMED = re.compile(r"`([^`]+)::([^`]+)`")


@cache
def _tests(path: str) -> set[str]:
    """What pytest would collect of a file: functions at any level, and state machines' test cases."""
    tree = ast.parse((REPO / path).read_text()) if (REPO / path).is_file() else ast.Module([], [])
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    cases = {
        target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)
    }
    return {name for name in names | cases if name.lower().startswith("test")}


def test_there_are_promises() -> None:
    assert len(PROMISES) > 20


@pytest.mark.parametrize("row", PROMISES, ids=[row[0][:60] for row in PROMISES])
def test_a_promise_has_a_test_that_exists(row: list[str]) -> None:
    assert len(row) == 3, "promise, what is not promised, test"
    named = NAMED.findall(row[2])
    assert named
    assert [f"{path}::{name}" for path, name in named if name not in _tests(path)] == []
