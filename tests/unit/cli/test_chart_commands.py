"""What the chart does now is printed as values and a helm command. tests/chart gives the values to helm."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cmk.cli.app import app


def run(*args: str, **variables: str) -> tuple[str, dict[str, Any]]:
    done = CliRunner().invoke(app, list(args), env=variables)
    assert done.exit_code == 0, done.output
    return done.stdout, yaml.safe_load(done.stdout)


def test_cluster_init_with_every_flag() -> None:
    text, values = run(
        "cluster-init", "--host-list=n1, n2", "--cmk-cmd-list=init,discover,install", "--cmk-img=reg:5000/a/cmk:v1.5.2",
        "--cmk-img-pol=Always", "--install-dir=/opt/x", "--num-exclusive-cores=3", "--num-shared-cores=2", "--pull-secret=pull",
        "--saname=account", "--shared-mode=spread", "--exclusive-mode=spread", "--namespace=ns", "--excl-non-isolcpus=11-15",
        "--cafile=/ca", "--insecure=True", "--no-taint", "--conf-dir=/etc/y",
    )  # fmt: skip
    assert "helm upgrade --install cmk charts/cmk --namespace ns --create-namespace -f values.yaml" in text
    assert values == {
        "nodes": {"names": ["n1", "n2"]},
        "taint": False,
        "pools": {
            "exclusive": {"cores": 3, "mode": "spread"},
            "shared": {"cores": 2, "mode": "spread"},
            "exclusive-non-isolcpus": {"cores": "11-15"},
        },
        "image": {"repository": "reg:5000/a/cmk", "tag": "v1.5.2", "pullPolicy": "Always", "pullSecrets": [{"name": "pull"}]},
        "compat": {"hostDirs": ["/opt/x", "/etc/y"]},
    }


def test_cluster_init_for_all_hosts_says_so_about_the_taint() -> None:
    _, values = run("cluster-init", "--all-hosts")
    assert (values["nodes"], values["taint"]) == ({"all": True}, True)
    assert values["pools"] == {"exclusive": {"cores": 4}, "shared": {"cores": 1}}


def test_a_lone_core_is_named_not_counted() -> None:
    _, values = run("cluster-init", "--host-list=n", "--excl-non-isolcpus=5")
    assert values["pools"]["exclusive-non-isolcpus"] == {"cores": [5]}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give either --host-list or --all-hosts"),
        (("--host-list=n", "--all-hosts"), "give either --host-list or --all-hosts"),
        (("--host-list=n", "--cmk-cmd-list=init,fly"), "'fly' is not one of init, discover, install, reconcile, nodereport"),
        (("--host-list=n", "--cmk-cmd-list=discover,init"), "init has to come first"),
        (("--host-list=n", "--cmk-img-pol=Often"), "'Often' is not one of 'Never', 'IfNotPresent', 'Always'"),
        (("--host-list=n", "--num-shared-cores=x"), "'x' is not a valid int"),
        (("--host-list=n", "--shared-mode=wide"), "'wide' is not one of 'packed', 'spread'"),
    ],
)
def test_cluster_init_refuses(args: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["cluster-init", *args])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_discover_is_the_agents_work() -> None:
    _, values = run("discover", "--no-taint", "--conf-dir=/etc/cmk", NODE_NAME="worker-3")
    assert values == {"nodes": {"names": ["worker-3"]}, "taint": False}


def test_reconfigure_in_a_cluster_is_an_upgrade() -> None:
    text, values = run(
        "reconfigure",
        "--conf-dir=/nowhere",
        "--node-name=n1",
        "--num-exclusive-cores=2",
        "--namespace=ns",
        "--install-dir=/opt/bin",
    )
    assert "helm upgrade cmk charts/cmk --namespace ns --reset-then-reuse-values -f values.yaml" in text
    assert values == {"hosts": {"n1": {"pools": {"exclusive": {"cores": 2}, "shared": {"cores": 1}}}}}


def test_reconfigure_setup_is_an_upgrade_of_all() -> None:
    _, values = run("reconfigure_setup", "--num-exclusive-cores=2", "--cmk-img=cmk:v2", "--cmk-img-pol=Never", "--saname=x")
    image = {"repository": "cmk", "tag": "v2", "pullPolicy": "Never"}
    assert values == {"pools": {"exclusive": {"cores": 2}, "shared": {"cores": 1}}, "image": image}


def test_uninstall_in_a_cluster_says_what_to_type_in_which_order() -> None:
    text = CliRunner().invoke(app, ["uninstall", "--conf-dir=/nowhere", "--namespace=ns"]).stdout
    assert [line.split()[:2] for line in text.splitlines()[1:]] == [
        ["kubectl", "label"],
        ["kubectl", "wait"],
        ["helm", "uninstall"],
    ]
    assert text.endswith("--namespace ns\n")


def test_reaffinitize_in_a_cluster_has_nothing_to_do() -> None:
    done = CliRunner().invoke(app, ["reaffinitize", "--conf-dir=/nowhere", "--node-name=n", "--namespace=ns"])
    assert (done.exit_code, "Nothing to run here" in done.stdout) == (0, True)


def test_isolate_is_listed_but_goes_its_own_way() -> None:
    done = CliRunner().invoke(app, ["isolate", "--pool=infra"])
    assert done.exit_code == 78
