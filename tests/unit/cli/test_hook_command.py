from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from cmk import __version__
from cmk.cli import common, hook_command
from cmk.cli.app import app
from cmk.fleet import cluster_nodes, looks
from cmk.fleet.preview import Node
from cmk.kube import client
from cmk.kube.client import ApiError
from tests.unit.fleet.fleets import POD, config, node


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Those of a cluster that is made up."""
    found: list[Node] = []
    monkeypatch.setattr(hook_command.time, "sleep", lambda _: None)
    monkeypatch.setattr(client, "in_cluster", lambda: None)
    monkeypatch.setattr(cluster_nodes, "nodes", lambda _: iter(found))
    monkeypatch.setattr(looks, "Looks", lambda _: lambda _: iter(found))
    return found


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    monkeypatch.setattr(common, "TERMINATION_LOG", path)
    return path


def run(tmp_path: Path, command: str, *args: str, exclusive: int = 0) -> Result:
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config(exclusive)))
    return CliRunner().invoke(app, ["hook", command, f"--config={tmp_path}", *args])


def test_a_plan_that_is_refused_fails_with_cause_and_place(tmp_path: Path, nodes: list[Node], log: Path) -> None:
    nodes += [node("a"), node("b", pods=(POD,)), node("c", pods=(POD,))]
    done = run(tmp_path, "plan")
    text = (
        "upgrade refused, nothing has changed: node b: pool exclusive would have 0 cores, but 1 are held or requested: ns/web 1 "
        "(and 1 nodes more)"
    )
    assert (done.exit_code, done.stdout, done.stderr.splitlines()[-1]) == (1, "", f"cmk: {text}")
    assert log.read_text() == f"{text}\n"
    assert done.stderr.splitlines()[0] == "node b refuses; planning again in 8 s, when reports are current"
    assert done.stderr.splitlines()[1].split() == ["NODE", "SCOPE", "MOVES", "STAYS", "RESULT"]


def test_a_pod_that_has_just_gone_refuses_nothing(
    tmp_path: Path, nodes: list[Node], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes += [node("a", pods=(POD,))]

    def reports_follow(_: float) -> None:
        nodes[:] = [node("a")]

    monkeypatch.setattr(hook_command.time, "sleep", reports_follow)
    done = run(tmp_path, "plan")
    assert (done.exit_code, log.read_text()) == (0, ""), done.stderr


def test_changes_are_no_failure(tmp_path: Path, nodes: list[Node], log: Path) -> None:
    nodes += [node("a")]
    assert run(tmp_path, "plan", exclusive=1).exit_code == 0
    assert log.read_text() == ""


def test_where_no_agent_is_every_plan_passes(tmp_path: Path, nodes: list[Node]) -> None:
    nodes += [Node("a", {})]
    assert run(tmp_path, "plan", exclusive=64).exit_code == 0


def test_all_nodes_have_it(tmp_path: Path, nodes: list[Node]) -> None:
    nodes += [node("a", agentVersion=__version__)]
    done = run(tmp_path, "verify", exclusive=2)
    assert (done.exit_code, done.stderr.splitlines()) == (0, ["NODE  SCOPE    STATE    WHY", "a     default  applied"])


@pytest.mark.parametrize(("allowed", "code"), [("0", 1), ("1", 0), ("50%", 0), ("49%", 1)])
def test_so_many_may_fail(tmp_path: Path, nodes: list[Node], log: Path, allowed: str, code: int) -> None:
    nodes += [node("a", agentVersion=__version__), node("b", agentVersion="0.0.1")]
    done = run(tmp_path, "verify", "--timeout=0", f"--max-failures={allowed}", exclusive=2)
    assert done.exit_code == code, done.stderr
    text = f"1 of 2 nodes have not applied the configuration (b): its agent is still 0.0.1, not {__version__}\n"
    assert log.read_text() == (text if code else "")


def test_what_is_no_number_of_failures_is_told(tmp_path: Path, nodes: list[Node]) -> None:
    nodes += [node("b", agentVersion="0.0.1")]
    done = run(tmp_path, "verify", "--timeout=0", "--max-failures=many", exclusive=2)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (
        1,
        "cmk: verify.maxFailures: 'many' is neither a number of nodes nor a percentage such as 5%",
    )


def test_an_api_server_that_is_away_is_told_and_worth_another_try(
    tmp_path: Path, nodes: list[Node], log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise ApiError("cannot reach the API server")

    monkeypatch.setattr(client, "in_cluster", away)
    assert run(tmp_path, "plan").exit_code == 75
    assert log.read_text() == "cannot reach the API server\n"
