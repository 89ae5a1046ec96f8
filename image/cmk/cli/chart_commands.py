"""Commands of Intel CMK whose work the chart does now: they print the values that say the same, and the helm command that applies them."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cmk.cli import common
from cmk.model.config import PoolConfig
from cmk.model.flags import PoolFlags, values_of

_CHART = "charts/cmk"
_COMMANDS = ("init", "discover", "install", "reconcile", "nodereport")
_PLAN_FIRST = f"To see what it would do to each node and its tasks: cmk plan -f values.yaml --chart {_CHART}"


class PullPolicy(StrEnum):
    """The pull policies, as Kubernetes spells them."""

    NEVER = "Never"
    IF_NOT_PRESENT = "IfNotPresent"
    ALWAYS = "Always"


ImageOption = Annotated[str, typer.Option("--cmk-img", help="Image, REPOSITORY:TAG [default: the chart's].")]
PullPolicyOption = Annotated[PullPolicy, typer.Option("--cmk-img-pol", help="Pull policy of the image.")]
AccountOption = Annotated[str, typer.Option("--saname", help="Accepted and ignored: the chart creates its service accounts.")]


@common.takes_pool_flags
def cluster_init(
    asked: PoolFlags,
    host_list: Annotated[str, typer.Option(help="Nodes to prepare, separated by commas.")] = "",
    all_hosts: Annotated[bool, typer.Option("--all-hosts", help="Prepare every node.")] = False,
    cmk_cmd_list: Annotated[str, typer.Option(help="Accepted and ignored: the agent does all of them.")] = ",".join(_COMMANDS),
    cmk_img: ImageOption = "",
    cmk_img_pol: PullPolicyOption = PullPolicy.IF_NOT_PRESENT,
    install_dir: common.InstallDirOption = Path("/opt/bin"),
    conf_dir: common.ConfDirOption = None,
    pull_secret: Annotated[str, typer.Option(help="Secret to pull the image with.")] = "",
    saname: AccountOption = "cmk-serviceaccount",
    namespace: common.NamespaceOption = "default",
    cafile: Annotated[str, typer.Option(help="Accepted and ignored: the chart's value is webhook.clientCA.")] = "",
    insecure: Annotated[str, typer.Option(help="Accepted and ignored: the chart's value is webhook.clientCA.")] = "False",
    no_taint: Annotated[bool, typer.Option("--no-taint", help="Do not taint the nodes.")] = False,
) -> None:
    """Print the values.yaml that prepares these nodes, and the helm command that applies it."""
    with common.one_line_errors():
        hosts = [host.strip() for host in host_list.split(",") if host.strip()]
        if bool(hosts) == all_hosts:
            common.fail("give either --host-list or --all-hosts", 2)
        words = [word.strip() for word in cmk_cmd_list.split(",")]
        if unknown := [word for word in words if word not in _COMMANDS]:
            common.fail(f"--cmk-cmd-list={cmk_cmd_list}: {unknown[0]!r} is not one of {', '.join(_COMMANDS)}", 2)
        if "init" in words and words[0] != "init":
            common.fail(f"--cmk-cmd-list={cmk_cmd_list}: init has to come first", 2)
        pools = asked.pools()
        values: dict[str, Any] = {"nodes": {"all": True} if all_hosts else {"names": hosts}}
        if all_hosts or no_taint:
            values["taint"] = not no_taint
        values["pools"] = values_of(pools)
        values |= _image(cmk_img, cmk_img_pol, pull_secret)
        directories = [str(install_dir), str(common.conf_dir(conf_dir))]
        # Pod specs written for CMK mount both; the chart's own directory stays as it is.
        values["compat"] = {"hostDirs": directories}
        _print(values, f"helm upgrade --install cmk {_CHART} --namespace {namespace} --create-namespace -f values.yaml")


@common.takes_pool_flags
def reconfigure_setup(
    asked: PoolFlags,
    cmk_img: ImageOption = "",
    cmk_img_pol: PullPolicyOption = PullPolicy.IF_NOT_PRESENT,
    install_dir: common.InstallDirOption = Path("/opt/bin"),
    conf_dir: common.ConfDirOption = None,
    saname: AccountOption = "cmk-serviceaccount",
    namespace: common.NamespaceOption = "default",
) -> None:
    """Print the helm upgrade that changes the pools of every node."""
    with common.one_line_errors():
        pools = asked.pools()
        print_upgrade(pools, "", namespace, _image(cmk_img, cmk_img_pol, ""))


def discover(
    no_taint: Annotated[bool, typer.Option("--no-taint", help="Do not taint the node.")] = False,
    conf_dir: common.ConfDirOption = None,
    namespace: common.NamespaceOption = "cmk",
) -> None:
    """Print the values that make this a CMK node: the agent labels and taints it and advertises its cores."""
    values: dict[str, Any] = {"nodes": {"names": [os.environ.get("NODE_NAME") or platform.node()]}}
    if no_taint:
        values["taint"] = False
    _print(values, f"helm upgrade --install cmk {_CHART} --namespace {namespace} --create-namespace -f values.yaml")


def print_upgrade(pools: Mapping[str, PoolConfig], node: str, namespace: str, more: Mapping[str, Any] | None = None) -> None:
    """Print the values with other pools for all nodes, or for one (``node``), and the helm upgrade that applies them."""
    wanted = values_of(pools)
    values = {"hosts": {node: {"pools": wanted}}} if node else {"pools": wanted}
    command = f"helm upgrade cmk {_CHART} --namespace {namespace} --reset-then-reuse-values -f values.yaml"
    _print({**values, **(more or {})}, command, _PLAN_FIRST)


def print_uninstall(namespace: str) -> None:
    """Print the commands that remove the chart and everything that its agents have added to nodes."""
    for line in (
        "# An agent removes label, taint, resources and report of its node when the node leaves the selection:",
        "kubectl label node --all cmk-node-",
        "kubectl wait --for=delete cmk-nr --all --timeout=120s",
        f"helm uninstall cmk --namespace {namespace}",
    ):
        typer.echo(line)


def _image(name: str, policy: PullPolicy, secret: str) -> dict[str, Any]:
    image: dict[str, Any] = {}
    if name:
        # A colon before a slash belongs to the registry's port.
        repository, colon, tag = name.rpartition(":")
        image = {"repository": repository, "tag": tag} if colon and "/" not in tag else {"repository": name}
    if policy is not PullPolicy.IF_NOT_PRESENT:
        image["pullPolicy"] = policy.value
    if secret:
        image["pullSecrets"] = [{"name": secret}]
    return {"image": image} if image else {}


def _print(values: Mapping[str, Any], command: str, *notes: str) -> None:
    for note in (*notes, f"Save this as values.yaml and run: {command}"):
        typer.echo(f"# {note}")
    from cmk.cli import yaml_text  # noqa: PLC0415  # imports yaml, which would slow down every start of the agent

    typer.echo(yaml_text.dump(values), nl=False)
