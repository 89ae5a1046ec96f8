"""The chart that was here before, upgraded with both Helms as operators do it. No node is selected: this is about values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cluster.cluster import CHART, Cluster, Json

PREVIOUS = Path(__file__).parent / "previous-chart.tgz"
OVERRIDES = CHART / "tests/values/worker-0-cmk-overrides.yml"
NAMESPACE = "kube-system"
IMAGE = "image.repository=localhost/cmk,image.tag=dev,image.pullPolicy=Never"  # hooks run it
RELEASE = "cpu-manager"


def data(cluster: Cluster, name: str, key: str) -> Json:
    return dict(json.loads(cluster.get("configmap", "-n", NAMESPACE, f"{RELEASE}-cmk-{name}")["data"][key]))


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_starlingx_overrides_apply_as_documented(bare: Cluster, helm: str) -> None:
    def run(*args: str) -> str:
        return bare.script("run", helm, *args, "-n", NAMESPACE).stdout

    run("install", RELEASE, str(PREVIOUS), "--set", f"{IMAGE},hosts.worker-1.taint=false,agent.logLevel=DEBUG")
    try:
        for flag in ("--reuse-values", "--reset-then-reuse-values"):
            run("upgrade", RELEASE, str(CHART), flag, "-f", str(OVERRIDES))
            assert_overridden(bare)
            run("rollback", RELEASE, "1")
    finally:
        run("uninstall", RELEASE)


def assert_overridden(cluster: Cluster) -> None:
    """What the overrides say, and what was set before."""
    default = data(cluster, "config", "config.json")["default"]
    assert {name: pool["cores"] for name, pool in default["pools"].items()} == {"exclusive": -1, "shared": 1, "infra": "rest"}
    host = data(cluster, "hosts-08", "hosts.json")["worker-0"]["sections"][""]
    assert {name: pool["cores"] for name, pool in host["pools"].items()} == {"exclusive": -1, "shared": 2, "infra": "rest"}
    assert host["origins"]["shared.cores"] == "conf.overrides.cpu-manager-k8s_cmk.hosts[0]"
    assert data(cluster, "hosts-09", "hosts.json")["worker-1"]["sections"][""]["taint"] is False
    (container,) = cluster.get("daemonset", "-n", NAMESPACE, f"{RELEASE}-cmk-node")["spec"]["template"]["spec"]["containers"]
    assert "--log-level=DEBUG" in container["args"]


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_a_refusal_reaches_the_operator(bare: Cluster, helm: str) -> None:
    line = ("install", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(OVERRIDES), "--set", "pools.shared.cores=3")
    done = bare.script("run", helm, *line, check=False)
    assert done.returncode != 0
    assert "conf.cmk.NUM_SHARED_CORES and pools.shared both say how many cores pool shared gets: leave one out" in done.stderr


def test_a_plan_passes_where_no_agent_is_and_no_definition_either(bare: Cluster) -> None:
    """Argo CD runs what is for upgrades before its first sync as well."""
    line = ("template", "cmk", str(CHART), "-n", "default", "--set", IMAGE, "--show-only", "templates/hooks/plan.yaml")
    hook = bare.helm(*line)
    bare.kubectl("apply", "-f", "-", stdin=hook)
    try:
        bare.kubectl("wait", "--for=condition=Complete", "job/cmk-plan", "--timeout=60s")
        assert "0 nodes: 0 change, 0 refuse; 0 tasks move" in bare.kubectl("logs", "job/cmk-plan")
    finally:
        bare.kubectl("delete", "-f", "-", stdin=hook)
