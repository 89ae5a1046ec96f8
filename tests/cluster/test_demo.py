"""The demo, as the README shows it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.cluster import REPO


@pytest.mark.usefixtures("tools")
def test_the_demo_shows_pinned_pods_and_leaves_nothing(name: str) -> None:
    environment = {**os.environ, "CMK_CLUSTER": f"{name}-demo"}
    done = subprocess.run([REPO / "scripts/demo"], env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    shown = [line.split(": pid ") for line in done.stdout.splitlines() if line.startswith("  pod ")]
    assert [name.split()[-1] for name, _ in shown] == ["exclusive", "infra", "second", "second"]
    (exclusive, infra, before, after) = (text.rsplit(" ", 1)[-1] for _, text in shown)
    assert exclusive == before != infra
    assert after != before, "the pool has moved"
    assert shown[2][1].split(" ")[0] == shown[3][1].split(" ")[0], "and the process with it"
    assert "is Pending, for there is none left" in done.stdout
    assert not (Path(os.environ["CMK_CACHE"]) / "clusters" / f"{name}-demo").exists()


def test_the_demo_says_what_it_needs() -> None:
    for args, message in (
        (("--context", "somewhere"), "say with --image what it can pull"),
        (("--context",), "--context needs a value"),
        (("--colour",), "unknown option --colour"),
        (("-f", "/nowhere"), "-f /nowhere: no such file"),
    ):
        done = subprocess.run([REPO / "scripts/demo", *args], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert message in done.stderr
