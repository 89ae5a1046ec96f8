import pytest

from cmk.kube import node

RESOURCE = "cmk.intel.com/exclusive-cores"
OURS = {"key": "cmk", "value": "true", "effect": "NoSchedule", "timeAdded": None}
OTHER = {"key": "other", "effect": "NoExecute"}


def make(
    *taints: dict[str, object], label: str | None = None, capacity: str | None = None, allocatable: str | None = None
) -> node.Json:
    status = {
        "capacity": {"cpu": "2", **({RESOURCE: capacity} if capacity else {})},
        "allocatable": {"cpu": "2", **({RESOURCE: allocatable} if allocatable else {})},
    }
    labels = {"a": "b", **({node.LABEL: label} if label else {})}
    return {"metadata": {"labels": labels, "resourceVersion": "7"}, "spec": {"taints": list(taints)}, "status": status}


@pytest.mark.parametrize(
    ("before", "label", "taint", "taints", "label_patch"),
    [
        (make(), True, True, [node.TAINT], "true"),
        (make(OTHER), True, True, [OTHER, node.TAINT], "true"),
        (make(OTHER, {**OURS, "value": "x"}, label="true"), True, True, [OTHER, node.TAINT], None),
        (make({**OURS, "effect": "NoExecute"}, label="true"), True, True, [node.TAINT], None),
        (make(OTHER, OURS, label="true"), False, False, [OTHER], "removed"),
        (make(OURS, label="true"), True, False, [], None),
        (make(OURS, label="other"), True, True, None, "true"),
    ],
)
def test_marks(before: node.Json, label: bool, taint: bool, taints: list[object] | None, label_patch: str | None) -> None:
    patch = node.marks_patch(before, label=label, taint=taint)
    assert patch is not None
    assert patch.get("spec", {}).get("taints") == taints
    # other people's taints are in the list we send: the version makes sure that none of them is lost
    assert patch["metadata"].get("resourceVersion") == ("7" if taints is not None else None)
    expected = {None: None, "removed": {node.LABEL: None}}.get(label_patch, {node.LABEL: label_patch})
    assert patch["metadata"].get("labels") == expected


@pytest.mark.parametrize(("before", "on"), [(make(OTHER, OURS, label="true"), True), (make(OTHER), False)])
def test_right_marks_need_no_patch(before: node.Json, on: bool) -> None:
    assert node.marks_patch(before, label=on, taint=on) is None


@pytest.mark.parametrize(
    ("before", "wanted", "patch"),
    [
        (make(), {RESOURCE: 4}, {"capacity": {RESOURCE: "4"}, "allocatable": {RESOURCE: "4"}}),
        (make(capacity="4", allocatable="3"), {RESOURCE: 4}, {"allocatable": {RESOURCE: "4"}}),
        (make(capacity="4", allocatable="4"), {}, {"capacity": {RESOURCE: None}, "allocatable": {RESOURCE: None}}),
        (make(capacity="4", allocatable="4"), {RESOURCE: 4}, None),
        (make(), {}, None),
        (make(capacity="1k", allocatable="1k"), {RESOURCE: 1000}, None),
        (make(capacity="2k", allocatable="1Ki"), {RESOURCE: 1024}, {"capacity": {RESOURCE: "1024"}}),
        (make(capacity="500m", allocatable="two"), {RESOURCE: 1}, {"capacity": {RESOURCE: "1"}, "allocatable": {RESOURCE: "1"}}),
        (make(capacity="-1", allocatable="two"), {}, {"capacity": {RESOURCE: None}, "allocatable": {RESOURCE: None}}),
    ],
)
def test_status(before: node.Json, wanted: dict[str, int], patch: dict[str, object] | None) -> None:
    assert node.status_patch(before, wanted) == (patch and {"status": patch})


@pytest.mark.parametrize(
    ("capacity", "count"),
    [("4", 4), ("1k", 1000), ("1Ki", 1024), ("0", 0), ("500m", 0), ("-1", 0), ("two", 0), ("1e400", 0), ("9E", 65537)],
)
def test_reads_every_way_to_write_a_number(capacity: str, count: int) -> None:
    assert node.advertised(make(capacity=capacity)) == {RESOURCE: count}
