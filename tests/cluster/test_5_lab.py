"""The cluster's own promise: down leaves nothing."""

import os
import subprocess
from pathlib import Path

from tests.cluster.cluster import Cluster

NAME = "cmk-trace"


def traces() -> set[str]:
    """Everything on this machine that a cluster of this name could leave."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"clusters/{NAME}" in line:
            found.add(f"process {line}")
    found |= {f"mount {line.split()[1]}" for line in Path("/proc/mounts").read_text().splitlines()}
    found |= {f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/cmk-{NAME}-*")}
    for what in ("link", "route"):
        text = subprocess.run(["ip", "-o", what], check=True, capture_output=True, text=True).stdout
        found |= {f"{what} {line.split('@')[0].split('<')[0]}" for line in text.splitlines()}
    found |= {f"file {path}" for path in (Path(os.environ["CMK_CACHE"]) / "clusters").glob(NAME)}
    for directory in ("/opt", "/etc", "/var/lib", "/run"):
        found |= {f"file {path}" for path in Path(directory).glob("*cmk*")}
    return found


def test_down_leaves_nothing() -> None:
    before = traces()
    cluster = Cluster(NAME)
    cluster.script("up", "1")
    assert traces() - before
    cluster.script("down")
    assert traces() - before == set()


def test_down_clears_a_half_started_cluster() -> None:
    before = traces()
    cluster = Cluster(NAME)
    cluster.script("up", "1")
    # what a cut session leaves: the control plane dead, the node alive
    pid = (Path(os.environ["CMK_CACHE"]) / f"clusters/{NAME}/run/apiserver.pid").read_text()
    subprocess.run(["kill", "-9", pid.strip()], check=True)
    cluster.script("down")
    cluster.script("down")
    assert traces() - before == set()
