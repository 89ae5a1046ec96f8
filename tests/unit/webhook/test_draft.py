from __future__ import annotations

import copy
from typing import Any

import jsonpatch
import pytest

from cmk.webhook.draft import Draft, Path, pointer


def made(document: dict[str, Any], *changes: tuple[str, Path, Any]) -> Draft:
    draft = Draft(copy.deepcopy(document))
    for verb, path, value in changes:
        if verb == "drop":
            draft.drop(path)
        else:
            getattr(draft, verb)(path, value)
    assert jsonpatch.apply_patch(document, draft.operations) == draft.document
    return draft


@pytest.mark.parametrize(("path", "text"), [((), ""), (("a", 0), "/a/0"), (("a/b", "c~d"), "/a~1b/c~0d"), (("",), "/")])
def test_pointers_are_escaped(path: Path, text: str) -> None:
    assert pointer(path) == text


def test_what_is_there_is_not_written_down() -> None:
    assert made({"a": {"b": 1}}, ("put", ("a", "b"), 1)).operations == []


def test_maps_are_made_on_the_way_in_one_operation() -> None:
    draft = made({}, ("put", ("a", "b", "c"), 1), ("put", ("a", "d"), 2))
    assert draft.operations == [{"op": "add", "path": "/a", "value": {"b": {"c": 1}, "d": 2}}]


@pytest.mark.parametrize("document", [{"a": None}, {}, {"a": "text"}])
def test_null_and_another_kind_are_as_good_as_missing(document: dict[str, Any]) -> None:
    assert made(document, ("append", ("a",), 1), ("append", ("a",), 2)).operations == [
        {"op": "add", "path": "/a", "value": [1, 2]}
    ]


def test_a_list_of_theirs_gets_one_operation_for_each_item() -> None:
    draft = made({"a": [1]}, ("append", ("a",), {"x": 1}), ("put", ("a", 1, "y"), 2))
    assert draft.operations == [{"op": "add", "path": "/a/-", "value": {"x": 1, "y": 2}}]


def test_items_are_replaced() -> None:
    assert made({"a": [1, 2]}, ("replace", ("a", 1), 3)).operations == [{"op": "replace", "path": "/a/1", "value": 3}]


def test_members_are_dropped() -> None:
    assert made({"a": {"b": 1}}, ("drop", ("a", "b"), None)).operations == [{"op": "remove", "path": "/a/b"}]


def test_the_callers_values_are_not_ours_to_change() -> None:
    value: dict[str, Any] = {"x": []}
    made({}, ("put", ("a",), value), ("append", ("a", "x"), 1))
    assert value == {"x": []}
