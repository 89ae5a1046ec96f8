import pytest

from cmk.agent.publisher import advertise

NAME, GONE = "cmk.intel.com/exclusive-cores", "cmk.intel.com/old-cores"


@pytest.mark.parametrize(
    ("lists", "current", "demand", "expected"),
    [
        ({NAME: 4}, {}, 0, {NAME: 4}),
        ({NAME: 4}, {NAME: 9}, 0, {NAME: 4}),
        ({NAME: 4}, {NAME: 9}, 6, {NAME: 6}),
        ({NAME: 4}, {NAME: 4}, 100, {NAME: 4}),
        ({NAME: 4}, {NAME: 9}, None, {NAME: 9}),
        ({}, {GONE: 2}, 0, {}),
        ({}, {GONE: 2}, 1, {GONE: 1}),
    ],
)
def test_never_below_what_bound_pods_request(
    lists: dict[str, int], current: dict[str, int], demand: int | None, expected: dict[str, int]
) -> None:
    assert advertise(lists, current, lambda _: demand) == expected
