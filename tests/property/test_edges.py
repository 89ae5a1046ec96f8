"""Whatever a pod sends or asks for: an answer that is bounded, or the one error that says why not."""

import hypothesis.strategies as st
from hypothesis import example, given

from cmk.kube import node
from cmk.model import pods, quantity, wire
from cmk.model.printable import printable

RESOURCE = pods.resource_of("exclusive")
NUMBERS = st.integers().map(str) | st.integers(1, 600).map(lambda digits: "9" * digits) | st.text(max_size=8)
FIELDS = st.tuples(st.sampled_from(["pool", "cores", "socket", "affinity", "timeout", "on-move", "more"]), NUMBERS).map("=".join)
REQUESTS = st.lists(FIELDS, max_size=6).map(
    lambda fields: "\n".join(["cmk/1 isolate", "pool=x", *fields]).encode("utf-8", "surrogatepass")
)
QUANTITIES = st.text(max_size=20) | st.text("0123456789.eEkKMGTPimun+-", max_size=60) | NUMBERS
AMOUNTS = QUANTITIES | st.integers() | st.floats() | st.none() | st.booleans()


@given(st.binary(max_size=wire.MAX_REQUEST + 10) | REQUESTS)
@example(b"cmk/1 isolate\npool=x\ntimeout=" + b"9" * 400)
def test_any_packet_is_a_request_within_bounds_or_a_wire_error(data: bytes) -> None:
    try:
        request, reply = wire.parse(data), b""
    except wire.WireError as refusal:
        request, reply = None, wire.refusal(wire.NEVER, str(refusal))
    if request is None:
        assert len(reply) < 300
        assert reply.decode().split("\n", 1)[1].isprintable()
    if isinstance(request, wire.Isolate):
        assert abs(request.cores) <= pods.MOST_CORES
        assert -1 <= request.socket <= wire.MOST_SOCKETS
        assert 0 <= request.timeout <= 3600
        assert 0 < len(request.pool) <= 253


@given(QUANTITIES)
@example("1e" + "9" * 5000)
@example("9" * 5000)
@example("9" * 40 + "e99")
def test_any_text_is_a_quantity_of_bounded_length_or_a_quantity_error(text: str) -> None:
    try:
        value = quantity.parse(text)
    except quantity.QuantityError as refusal:
        value, said = None, str(refusal)
    assert abs(value) < 10**140 if value is not None else len(said) < 500


@given(st.lists(AMOUNTS, max_size=4), st.lists(AMOUNTS, max_size=2))
@example(["9E", "9E"], [])
@example([10**5000], [-(10**5000)])
def test_any_pod_requests_what_a_node_could_have_or_one_more(running: list[object], first: list[object]) -> None:
    def containers(amounts: list[object]) -> list[dict[str, object]]:
        return [{"resources": {"limits": {RESOURCE: amount}}} for amount in amounts]

    spec = {"containers": containers(running), "initContainers": containers(first)}
    assert 0 <= pods.effective_requests(spec).get(RESOURCE, 0) <= pods.MOST_CORES + 1


@given(AMOUNTS, st.integers(0, 4096))
def test_any_capacity_is_read_and_replaced_by_the_wanted_one(capacity: object, wanted: int) -> None:
    status = {"capacity": {RESOURCE: capacity}, "allocatable": {RESOURCE: capacity}}
    patch = node.status_patch({"status": status}, {RESOURCE: wanted})
    assert 0 <= node.advertised({"status": status})[RESOURCE] <= pods.MOST_CORES + 1
    if patch is not None:
        assert node.status_patch(patch, {RESOURCE: wanted}) is None


@given(st.text())
def test_any_text_can_be_printed(text: str) -> None:
    assert printable(text).isprintable()
