"""The cluster's own promise: down leaves nothing, and takes nothing from another cluster."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster

# What clusters make on the machine itself, where it is missing, and share.
SHARED = ("/opt/cmk", "/opt/bin", "/etc/cmk", "/var/lib/cmk", "/run/cmk-host-directories")


def traces(name: str) -> set[str]:
    """Everything on this machine that a cluster of this name could leave; other clusters may come and go meanwhile."""
    processes, mounted = set(), ""
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mounted += (directory / "mountinfo").read_text()
        except OSError:
            continue  # it has ended
        if f"clusters/{name}/" in line:
            processes.add(f"process {line}")
    found = processes | {f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines()}
    found |= {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/cmk-{name}-*")}
    for what in ("link", "route"):
        text = subprocess.run(["ip", "-o", what], check=True, capture_output=True, text=True).stdout
        found |= {f"{what} {line.split('@')[0].split('<')[0]}" for line in text.splitlines()}
    found |= {f"file {path}" for path in (Path(os.environ["CMK_CACHE"]) / "clusters").glob(name)}
    if " /opt/cmk " not in mounted:  # else another cluster needs them
        found |= {f"file {path}" for path in SHARED if Path(path).exists()}
    return found


@pytest.fixture
def another(name: str) -> Cluster:
    """Another cluster than the one that other tests use; each test takes it down itself."""
    return Cluster(f"{name}-trace")


def test_down_leaves_nothing_and_the_other_cluster_whole(running: Cluster, another: Cluster) -> None:
    before = traces(another.name)
    another.script("up", "1")
    assert traces(another.name) - before
    another.script("down")
    assert traces(another.name) - before == set()
    for directory in ("/opt/cmk", "/opt/bin", "/etc/cmk", "/var/lib/cmk", "/var/lib/kubelet"):
        running.on_node(1, f"mountpoint -q {directory}")


def test_down_clears_a_half_started_cluster(another: Cluster) -> None:
    before = traces(another.name)
    another.script("up", "1")
    # what a cut session leaves: the control plane dead, the node alive
    pid = (Path(os.environ["CMK_CACHE"]) / f"clusters/{another.name}/run/apiserver.pid").read_text()
    subprocess.run(["kill", "-9", pid.strip()], check=True)
    another.script("down")
    another.script("down")
    assert traces(another.name) - before == set()
