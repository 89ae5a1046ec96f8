import pytest

from cmk.model import wire


def test_reads_a_request() -> None:
    data = b"cmk/1 isolate\npool=exclusive\ncores=2\nsocket=1\naffinity=0\ntimeout=1500\nnews=7"
    assert wire.parse(data) == wire.Isolate("exclusive", 2, 1, False, 1.5)


def test_has_defaults() -> None:
    assert wire.parse(b"cmk/1 isolate\npool=shared") == wire.Isolate("shared", 1, -1, True, 30.0)


@pytest.mark.parametrize("what", ["describe", "node-report"])
@pytest.mark.parametrize(("lines", "old_names"), [("", False), ("\nnames=kcm", True), ("\nnames=x\ntimeout=3", False)])
def test_reads_read_only_requests(what: str, lines: str, old_names: bool) -> None:
    assert wire.parse(f"cmk/1 {what}{lines}".encode()) == wire.Show(what, old_names=old_names)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "UTF-8"),
        (b"cmk/9 isolate", "protocol 'cmk/9'"),
        (b"cmk/1 destroy", "unknown request 'destroy'"),
        (b"cmk/1 isolate", "names no pool"),
        (b"cmk/1 isolate\npool=x\ncores=two", "cores='two'"),
        (b"cmk/1 isolate\npool=x\ncores=65537", "cores=65537 is not between -65536 and 65536"),
        (
            b"cmk/1 isolate\npool=x\ncores=" + b"9" * 4000,
            "cores='99999999999999999999' is not a whole number of at most 9 digits",
        ),
        ("cmk/1 isolate\npool=x\ncores=٣".encode(), "cores='٣' is not a whole number"),
        (b"cmk/1 isolate\npool=x\ncores=1_0", "cores='1_0' is not a whole number"),
        (b"cmk/1 isolate\npool=x\nsocket=65536", "socket=65536 is not between -1 and 65535"),
        (b"cmk/1 isolate\npool=x\nsocket=-2", "socket=-2 is not between"),
        (b"cmk/1 isolate\npool=x\ntimeout=-" + b"9" * 400, "timeout='-9999999999999999999' is not a whole number"),
        (b"cmk/1 isolate\npool=x\ntimeout=1e5", "timeout='1e5' is not a whole number"),
        (b"cmk/1 isolate\npool=" + b"x" * 254, "is longer than the name of a pool can be, 253 characters"),
        (b"cmk/1 isolate\npool=x\nmore=" + b"x" * 4096, "request is longer than 4096 bytes"),
    ],
)
def test_refuses_what_it_cannot_read(data: bytes, complaint: str) -> None:
    with pytest.raises(wire.WireError, match=complaint):
        wire.parse(data)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [("-5", 0.0), ("99999999999", 3600.0), ("9" * 400, 3600.0), ("3600001", 3600.0)]
)
def test_the_waiting_time_is_bounded(milliseconds: str, seconds: float) -> None:
    asked = wire.parse(f"cmk/1 isolate\npool=x\ntimeout={milliseconds}".encode())
    assert isinstance(asked, wire.Isolate)
    assert asked.timeout == seconds


def test_a_refusal_is_one_line() -> None:
    assert wire.refusal(wire.NEVER, "no\nsuch  thing") == b"cmk/1 error 78\nno such thing"


def test_a_refusal_repeats_no_control_character() -> None:
    text = "pool \x1b[31m \x00 \u202e \ud800 käse"
    assert wire.refusal(wire.NEVER, text) == "cmk/1 error 78\npool \\x1b[31m \\x00 \\u202e \\ud800 käse".encode()


def test_the_environment_follows_the_word_ok() -> None:
    assert wire.ok({"CMK_A": "1", "CMK_B": "2,3"}) == b"cmk/1 ok\nCMK_A=1\nCMK_B=2,3"


def test_the_head_of_a_text_is_one_that_launchers_without_lengths_take_for_ok() -> None:
    assert wire.show_head(300) == wire.ok({"length": "300"}) == b"cmk/1 ok\nlength=300"
