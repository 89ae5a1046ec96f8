"""Values that the command line prints are values that helm accepts, and nodes get what was asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts/cmk"


def rendered(tmp_path: Path, *args: str) -> dict[str, dict[str, Any]]:
    """ConfigMaps by name, as helm renders them from what a command printed."""
    printed = subprocess.run([sys.executable, "-m", "cmk", *args], capture_output=True, text=True, check=True).stdout
    (tmp_path / "values.yaml").write_text(printed)
    line = ["helm", "template", "cmk", str(CHART), "-n", "ns", "-f", str(tmp_path / "values.yaml")]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {item["metadata"]["name"]: item for item in yaml.safe_load_all(done.stdout) if item and item["kind"] == "ConfigMap"}


def test_cluster_init(tmp_path: Path) -> None:
    maps = rendered(
        tmp_path,
        "cluster-init",
        "--host-list=n1,n2",
        "--num-exclusive-cores=3",
        "--num-shared-cores=1",
        "--excl-non-isolcpus=11-15",
    )
    config = json.loads(maps["cmk-config"]["data"]["config.json"])
    assert config["selection"]["names"] == ["n1", "n2"]
    pools = config["default"]["pools"]
    assert {name: pool["cores"] for name, pool in pools.items()} == {
        "exclusive": 3, "shared": 1, "exclusive-non-isolcpus": "11-15", "infra": "rest"
    }  # fmt: skip
    assert pools["exclusive-non-isolcpus"]["exclusive"] is True


@pytest.mark.parametrize(
    "args",
    [
        ("cluster-init", "--all-hosts", "--no-taint", "--cmk-img=cmk:v1", "--pull-secret=x", "--exclusive-mode=spread"),
        ("cluster-init", "--host-list=n", "--num-exclusive-cores=-1", "--excl-non-isolcpus=7"),
        ("discover", "--no-taint"),
        ("reconfigure", "--conf-dir=/nowhere", "--node-name=n", "--num-exclusive-cores=0"),  # n: a boolean to some
        ("cluster-init", "--host-list=on,1e3,0x10,null"),
        ("reconfigure_setup", "--num-shared-cores=0", "--cmk-img=registry:5000/x/cmk"),
    ],
)
def test_whatever_is_printed_helm_accepts(tmp_path: Path, args: tuple[str, ...]) -> None:
    assert "cmk-config" in rendered(tmp_path, *args)
