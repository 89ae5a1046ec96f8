from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import yaml
from typer.testing import CliRunner, Result

from cmk.cli.app import app
from cmk.fleet.preview import Node
from cmk.model.config import Selection
from tests.unit.fleet.fleets import POD, TASK, config, node

LSCPU = "# CPU,Core,Socket\n" + "".join(f"{cpu},{cpu % 4},0\n" for cpu in range(8))


def run(*args: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, args)])


def report(one: Node) -> dict[str, object]:
    return {"kind": "NodeReport", "metadata": {"name": one.name}, **(one.report or {})}


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    """The configuration of one exclusive core, as mounted."""
    directory = tmp_path / "config"
    directory.mkdir()
    (directory / "config.json").write_bytes(msgspec.json.encode(config(1)))
    (directory / "hosts-03.json").write_text('{"ghost": {"sections": {}, "scope": "hosts.ghost"}}')
    return directory


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Three nodes: one that has it, one where a task moves, one where it stays."""
    directory = tmp_path / "reports"
    directory.mkdir()
    nodes = [node("a", exclusive=1), node("b", tasks=(TASK,), pods=(POD,))]
    (directory / "reports.json").write_text(json.dumps({"kind": "List", "items": [report(one) for one in nodes]}))
    (directory / "one.yaml").write_text(yaml.safe_dump(report(node("c"))))
    (directory / "notes.txt").write_text("nothing")
    return directory


def test_a_table_for_people(wanted: Path, reports: Path) -> None:
    done = run("--config", wanted, "--against", reports)
    assert done.exit_code == 2, done.output
    assert done.output.splitlines() == [
        "NODE  SCOPE    MOVES  STAYS  RESULT",
        "a     default  0      0      same",
        "b     default  1      0      changes",
        "c     default  0      0      changes",
        "b: pool exclusive: 0,4 1,5 -> 0,4",
        "b: pool infra: 2-3,6-7 -> 1,5 2-3,6-7",
        "b: process 17 of pod ns/web moves in pool exclusive: CPUs 1,5 -> 0,4",
        "c: pool exclusive: 0,4 1,5 -> 0,4",
        "c: pool infra: 2-3,6-7 -> 1,5 2-3,6-7",
        "note: hosts.ghost matches no node",
        "3 nodes: 2 change, 0 refuse; 1 tasks move",
    ]


def test_json_for_machines(wanted: Path, reports: Path) -> None:
    done = run("--config", wanted, "--against", reports, "--output=json")
    found = json.loads(done.output)
    assert [item["outcome"] for item in found["nodes"]] == ["same", "changes", "changes"]
    assert found["nodes"][1]["moves"] == [
        {"pid": 17, "pool": "exclusive", "before": "1,5", "after": "0,4", "pod": "ns/web", "container": "c" * 12}
    ]


def test_nothing_to_do(wanted: Path, tmp_path: Path) -> None:
    path = tmp_path / "same.json"
    path.write_text(json.dumps(report(node("a", exclusive=1))))
    assert run("--config", wanted, "--against", path).exit_code == 0


def test_nodes_that_are_saved_too_tell_all_their_labels(wanted: Path, tmp_path: Path) -> None:
    by_label = msgspec.structs.replace(config(1), selection=Selection({"cmk": "yes"}))
    (wanted / "config.json").write_bytes(msgspec.json.encode(by_label))
    path, one = tmp_path / "saved.json", report(node("a", exclusive=2))
    path.write_text(json.dumps(one))
    assert "does not tell whether it has the labels cmk" in run("--config", wanted, "--against", path).output
    kinds = {"kind": "List", "items": [one, {"kind": "Node", "metadata": {"name": "a", "labels": {"cmk": "yes"}}}]}
    path.write_text(json.dumps(kinds))
    assert "a: pool exclusive: 0,4 1,5 -> 0,4" in run("--config", wanted, "--against", path).output


@pytest.mark.parametrize("option", ["--isolcpus=1", "--node=a"])
def test_what_is_of_a_machine_alone_is_refused_with_reports(wanted: Path, reports: Path, option: str) -> None:
    done = run("--config", wanted, "--against", reports, option)
    text = "cmk: --isolcpus and --node are of a machine of which --against has lscpu's output\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", text)


def test_a_refusal(wanted: Path, tmp_path: Path) -> None:
    path = tmp_path / "full.json"
    path.write_text(
        json.dumps(report(node("a", pods=(msgspec.structs.replace(POD, grants={"cmk.intel.com/exclusive-cores": 2}),))))
    )
    done = run("--config", wanted, "--against", path)
    assert done.exit_code == 1
    assert "a: pool exclusive would have 1 cores, but 2 are held or requested: ns/web 2" in done.output.splitlines()


def test_a_machine_that_is_no_node_yet(wanted: Path, tmp_path: Path) -> None:
    path = tmp_path / "worker.txt"
    path.write_text(LSCPU)
    done = run("--config", wanted, "--against", path, "--isolcpus=3,7")
    assert (done.exit_code, done.output.splitlines()[2]) == (2, "worker: pool exclusive: none -> 3,7")


def test_a_machine_that_is_no_node_yet_needs_no_label(wanted: Path, tmp_path: Path) -> None:
    by_label = msgspec.structs.replace(config(1), selection=Selection({"cmk-node": "enabled"}))
    (wanted / "config.json").write_bytes(msgspec.json.encode(by_label))
    path = tmp_path / "worker.json"
    path.write_text(json.dumps({"cpus": [{"cpu": cpu, "core": cpu % 4, "socket": 0} for cpu in range(8)]}))
    done = run("--config", wanted, "--against", path, "--node=worker-1")
    assert (done.exit_code, done.output.splitlines()[2]) == (2, "worker-1: pool exclusive: none -> 0,4")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "no values are given: name them with -f values.yaml, as for helm"),
        (
            ("--config={wanted}", "-f", "values.yaml"),
            "--config stands for rendered values: give either",
        ),
        (("-f", "values.yaml", "--chart=/nowhere"), "there is no chart in /nowhere: name it with --chart"),
        (("--config=/nowhere", "--against={wanted}"), "No such file or directory"),
        (("--config={wanted}", "--against=/nowhere"), "No such file or directory"),
        (("--config={wanted}", "--against={empty}"), "has no NodeReports; to save them: kubectl get nodes,cmk-nr -o json > "),
        (("--config={wanted}", "--against={wanted}"), "has objects that are not NodeReports"),
        (("--config={wanted}", "--against={wanted}/../bad.json"), "bad.json is not valid JSON"),
        (("--config={wanted}", "--against={wanted}/../bad.yaml"), "bad.yaml is not valid YAML"),
        (("--config={wanted}", "--against={wanted}/../bad.txt"), "bad.txt: line 1 is not a line of lscpu -p=CPU,CORE,SOCKET"),
        (("--config={wanted}", "--against={wanted}/../two.txt", "--isolcpus=2-x"), "--isolcpus=2-x: '2-x' in CPU list"),
        (("--config={wanted}", "--against={wanted}/../two.txt", "--isolcpus=1-4"), "--isolcpus=1-4: CPU 2 is beyond the last"),
        (("--config={wanted}/..", "--against={wanted}"), "No such file or directory"),
    ],
)
def test_bad_input_is_told_in_a_line(wanted: Path, args: tuple[str, ...], message: str) -> None:
    (wanted / "../empty").mkdir()
    (wanted / "../two.txt").write_text("0,0,0\n1,1,0\n")
    for name in ("bad.json", "bad.yaml", "bad.txt"):
        (wanted / ".." / name).write_text("{[")
    done = run(*(arg.format(wanted=wanted, empty=wanted / "../empty") for arg in args))
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert message in done.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", b"\x80\xff"),
        ("a.yaml", b"\x80\xff"),
        ("a.txt", b"\x7fELF\0\xff"),
        ("a.json", b"[" * 100_000),
        ("a.json", b'{"cpus":' + b"[" * 3000),
        ("a.yaml", b"[" * 3000),
        ("a.yaml", b"a: 2026-13-45"),
        ("a.yaml", b"cpus: " + b"9" * 5000),
        ("a.yaml", b"cpus: [{cpu: 0x" + b"f" * 5000 + b", core: 0, socket: 0}]"),
        ("a.yaml", b"cpus: [{cpu: [0], core: 0, socket: 0}]"),
        ("a.json", b'{"items":5}'),
        ("a.json", b'{"kind":"NodeReport"}'),
        ("a.json", b'{"kind":"NodeReport","metadata":null}'),
        ("a.json", b'{"kind":"NodeReport","metadata":{"name":[1]}}'),
        ("a.json", b'{"kind":"NodeReport","metadata":{"name":5}}'),
        ("a.json", b'{"kind":"Node","metadata":{"name":"a","labels":[1]}}'),
        ("a.json", b'{"kind":"Node","metadata":{"name":"a","labels":"x"}}'),
        ("a.txt", b"999999999,0,0"),
    ],
)
def test_whatever_a_file_has_the_answer_is_a_line(wanted: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    done = run("--config", wanted, "--against", tmp_path / name)
    assert (done.exit_code, done.stderr.count("\n"), done.stderr[:4]) == (1, 1, "cmk:"), done.output
    assert str(tmp_path / name) in done.stderr


def test_helm_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Chart.yaml").write_text("")
    monkeypatch.setenv("HELM_BIN", "/nowhere/helm")
    done = run("-f", "values.yaml", "--chart", tmp_path)
    assert (done.exit_code, done.stderr) == (
        1,
        "cmk: cannot run /nowhere/helm: No such file or directory; install helm (HELM_BIN names it), or use --config\n",
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("warned\nError: pools.infra.cores=0", "pools.infra.cores=0"),
        (
            "Error: execution error at (cmk/templates/validate.yaml:5:4): taint is missing\n\nUse --debug flag to render out invalid YAML",
            "taint is missing",
        ),
        (
            "Error: values don't meet the schema:\ncmk:\n- at '/x': 'anyOf' failed\n  - at '/x': minimum: got -1, want 0\n",
            "at '/x': 'anyOf' failed; at '/x': minimum: got -1, want 0",
        ),
        ("", "helm failed without a message"),
    ],
    ids=["line", "template", "schema", "nothing"],
)
def test_what_helm_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str) -> None:
    helm = tmp_path / "helm"
    (tmp_path / "said").write_text(said)
    helm.write_text(f"#!/bin/sh\ncat {tmp_path}/said >&2; exit 1\n")
    helm.chmod(0o755)
    (tmp_path / "Chart.yaml").write_text("")
    monkeypatch.setenv("HELM_BIN", str(helm))
    assert run("-f", "values.yaml", "--chart", tmp_path).stderr == f"cmk: {told}\n"


def test_a_chart_that_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Chart.yaml").write_text("")
    monkeypatch.setenv("HELM_BIN", "/bin/true")
    assert run("-f", "values.yaml", "--chart", tmp_path).stderr.endswith("renders no config.json: is it the chart of cmk?\n")


def test_no_cluster_is_told(wanted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    done = run("--config", wanted)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("cmk: cannot use the kubeconfig: ")
