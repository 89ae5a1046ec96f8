"""``cmk plan``, which prints what values would change on each node before they are applied."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer

from cmk.cli import common, fleet_table, rendered_config
from cmk.fleet import preview
from cmk.fleet.preview import Node
from cmk.model import lscpu, report_state, short_topology
from cmk.model.config import ConfigError, Selection
from cmk.model.cpuset import CpuSetError
from cmk.model.lscpu import LscpuError
from cmk.model.node_state import NodeStateError
from cmk.model.topology import Topology

CLUSTER = "cluster"
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
EXIT_SAME, EXIT_REFUSED, EXIT_CHANGES = 0, 1, 2


def plan(
    values: Annotated[list[Path] | None, typer.Option("--values", "-f", help="Values file, as for helm; may repeat.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, as for helm; may repeat.")] = None,
    set_string: Annotated[list[str] | None, typer.Option("--set-string", help="As for helm; may repeat.")] = None,
    set_json: Annotated[list[str] | None, typer.Option("--set-json", help="As for helm; may repeat.")] = None,
    chart: Annotated[Path, typer.Option(envvar="CMK_CHART", help="The chart that is to be installed; helm renders it.")] = Path(
        "charts/cmk"
    ),
    config: Annotated[
        Path | None,
        typer.Option(help="Instead of values: directory with config.json and hosts-*.json as the chart renders them."),
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            help="The nodes to plan for: 'cluster'; a file or directory of NodeReports (kubectl get nodes,cmk-nr -o json); or a file with "
            "the output of lscpu -p=CPU,CORE,SOCKET, or of lscpu -J -e, of one machine, which need not be a node yet."
        ),
    ] = CLUSTER,
    node: Annotated[str, typer.Option(help="With lscpu's output: the name of that machine.")] = "",
    isolcpus: Annotated[
        str,
        typer.Option(help="With lscpu's output: isolcpus= of the kernel's command line there, as in managed_irq,domain,2-15."),
    ] = "",
    output: common.OutputOption = common.Output.TABLE,
) -> None:
    """Print what a configuration would change on each node, which tasks would move, and what would be refused. Nothing is changed.

    Exit: 0 nothing to do, 2 something would change, 1 something would be refused.
    """
    with common.one_line_errors():
        words = {"--set": settings or [], "--set-string": set_string or [], "--set-json": set_json or []}
        given = bool(values) or any(words.values())
        if config is None and not given:
            common.fail("no values are given: name them with -f values.yaml, as for helm", 1)
        if config is not None and given:
            common.fail("--config stands for rendered values: give either", 1)
        wanted, hosts = rendered_config.mounted(config) if config else rendered_config.rendered(values or [], words, chart)
        nodes = _described(against, isolcpus)
        if isinstance(nodes, Topology):  # it is no node yet, and has no label by which it could be selected
            wanted = msgspec.structs.replace(wanted, selection=Selection(all=True))
            nodes = [_node_of(nodes, node or Path(against).stem)]
        elif isolcpus or node:
            common.fail("--isolcpus and --node are of a machine of which --against has lscpu's output", 1)
        fleet = preview.plan(wanted, hosts, nodes)
        if output is common.Output.JSON:
            typer.echo(json.dumps(msgspec.to_builtins(fleet), indent=2))
        else:
            for line in fleet_table.plan_lines(fleet):
                typer.echo(line)
        raise typer.Exit(EXIT_REFUSED if fleet.blocking else EXIT_CHANGES if fleet.changes else EXIT_SAME)


def _described(against: str, isolcpus: str) -> list[Node] | Topology:
    """Nodes of the cluster or of saved reports, or the machine that lscpu's output describes."""
    if against == CLUSTER:
        from cmk.fleet import cluster_nodes  # noqa: PLC0415
        from cmk.kube import client  # noqa: PLC0415  # a client of the API would slow down the start of every other command

        return list(cluster_nodes.nodes(client.connect()))
    path = Path(against)
    if path.is_dir():
        files = [item for item in sorted(path.iterdir()) if item.suffix in _SUFFIXES]
        nodes = _saved((item, _read(item)) for item in files)
        if not nodes:
            raise ConfigError(f"{path} has no NodeReports; to save them: kubectl get nodes,cmk-nr -o json > {path}/reports.json")
        return nodes
    try:
        if path.suffix not in _SUFFIXES:
            return lscpu.parse(path.read_text(errors="replace"), isolcpus)
        content = _read(path)
        if isinstance(content, dict) and "cpus" in content:
            return lscpu.parse_json(content["cpus"], isolcpus)
    except LscpuError as error:
        raise ConfigError(f"{path}: {error}") from error
    except CpuSetError as error:
        raise ConfigError(f"--isolcpus={isolcpus}: {error}") from error
    return _saved([(path, content)])


def _node_of(machine: Topology, name: str) -> Node:
    report = {"topology": short_topology.dump(machine), "description": {"pools": {}}}
    status = {"isolatedFrom": machine.isolated_from, "state": {}}
    return Node(name, {}, {"spec": {"report": report}, "status": status})


class _SavedMetadata(msgspec.Struct):
    name: str
    labels: dict[str, str] | None = None


class _SavedObject(msgspec.Struct):
    kind: Literal["NodeReport", "Node"]
    metadata: _SavedMetadata


def _read(path: Path) -> Any:  # noqa: ANN401  # whatever the file holds
    text = path.read_text(errors="replace")
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from error
    import yaml  # noqa: PLC0415  # would slow down the start of every other command

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def _saved(files: Iterable[tuple[Path, Any]]) -> list[Node]:
    """The nodes in files with NodeReports, and with the Nodes themselves if they were saved too."""
    reports: dict[str, Any] = {}
    labels: dict[str, dict[str, str]] = {}
    for path, content in files:
        items = content.get("items") if isinstance(content, dict) and "items" in content else [content]
        try:
            found = msgspec.convert(items, list[_SavedObject])
        except msgspec.ValidationError as error:
            text = f"{path} has objects that are not NodeReports ({error})"
            raise ConfigError(f"{text}; to save these: kubectl get nodes,cmk-nr -o json") from error
        for item, whole in zip(found, items or (), strict=True):
            if item.kind == "NodeReport":
                reports[item.metadata.name] = whole
            else:
                labels[item.metadata.name] = item.metadata.labels or {}
    return [
        Node(name, labels[name], reports.get(name)) if name in labels else _with_labels(name, reports[name])
        for name in dict.fromkeys((*reports, *labels))
    ]


def _with_labels(name: str, report: Any) -> Node:  # noqa: ANN401  # values of JSON
    try:
        labels, known = report_state.labels_of(report)
    except NodeStateError:
        labels, known = {}, None  # the plan says so
    return Node(name, labels, report, labels_known=known)
