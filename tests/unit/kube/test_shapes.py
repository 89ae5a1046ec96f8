"""Shapes of API objects."""

from __future__ import annotations

import subprocess
import sys

FIRST_USES = """
import importlib, sys, threading
from cmk.kube import shapes
sys.setswitchinterval(1e-6)
pod = {"metadata": {"name": "a", "namespace": "b", "uid": "c"}, "spec": {"containers": [{"image": "x"}]}}
for _ in range(100):
    importlib.reload(shapes)
    start = threading.Barrier(4)
    def use():
        start.wait()
        shapes.check(pod, shapes.BoundPodShape, "it")
    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_use_a_shape_for_the_first_time_at_once() -> None:
    """msgspec ended the process."""
    done = subprocess.run([sys.executable, "-c", FIRST_USES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
