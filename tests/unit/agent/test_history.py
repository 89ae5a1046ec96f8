from __future__ import annotations

from pathlib import Path

from cmk.agent.history import APPLIED, MOST, History


def outcomes(history: History) -> list[str]:
    return [entry.outcome for entry in history.entries]


def test_ten_are_kept_and_outlive_the_agent(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for number in range(MOST + 2):
        history.add(f"h{number}", f"h{number + 1}", number, 5, APPLIED)
    again = History(tmp_path / "history").entries
    assert [entry.to_hash for entry in again] == [f"h{number}" for number in range(3, MOST + 3)]
    assert (again[-1].from_hash, again[-1].moves, again[-1].milliseconds, again[-1].when[-1]) == ("h11", 11, 5, "Z")


def test_of_one_change_the_last_refusal_stands(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    for outcome in ("refused: pod a", "refused: pod a", "refused: pod b", APPLIED, "refused: pod a"):
        history.add("x", "y", 0, 0, outcome)
    history.add("x", "z", 0, 0, "refused: pod a")
    assert outcomes(history) == ["refused: pod b", APPLIED, "refused: pod a", "refused: pod a"]


def test_a_node_that_leaves_has_none(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.add("x", "y", 0, 0, APPLIED)
    history.forget()
    history.forget()
    assert (history.entries, list(tmp_path.iterdir())) == ([], [])


def test_what_cannot_be_read_or_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "history").write_text("{")
    history = History(tmp_path / "history")
    assert history.entries == []
    gone = History(tmp_path / "nowhere/history")
    gone.add("x", "y", 0, 0, APPLIED)
    assert outcomes(gone) == [APPLIED]
