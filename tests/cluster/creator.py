"""Create pods at a steady rate and tell what became of them, as JSON. Run inside the cluster's network, with KUBECONFIG set.

Usage: creator.py RATE SECONDS NAMESPACE; pods ask for a core, and no scheduler places them. Says when the first is there; ends when its
standard input does, at the latest after SECONDS.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import urllib3
import yaml

config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
rate, seconds, namespace = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
resources = {"limits": {"cmk.intel.com/exclusive-cores": "1"}}
body = json.dumps(
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "load-"},
        "spec": {"schedulerName": "nobody", "containers": [{"name": "app", "image": "none", "resources": resources}]},
    }
)
pool = urllib3.PoolManager(
    16, ca_certs=cluster["certificate-authority"], maxsize=16, retries=False, timeout=urllib3.Timeout(total=30)
)
lock = threading.Lock()
times: list[float] = []
failed: list[str] = []


def create() -> None:
    """One pod."""
    start = time.monotonic()
    answer = pool.request(
        "POST",
        f"{cluster['server']}/api/v1/namespaces/{namespace}/pods",
        body=body,
        headers={"Authorization": f"Bearer {user['token']}", "Content-Type": "application/json"},
    )
    made = json.loads(answer.data)
    with lock:
        times.append(time.monotonic() - start)
        if answer.status != 201:
            failed.append(str(made.get("message")))
        elif "cmk.intel.com/resources-injected" not in made["metadata"].get("annotations", {}):
            failed.append("created as it was written")


create()
print("begun", flush=True)
begin = time.monotonic()
asked = 1
with ThreadPoolExecutor(16) as workers:
    while asked < rate * seconds:
        pause = max(0.0, begin + asked / rate - time.monotonic())
        if select.select([sys.stdin], [], [], pause)[0]:
            break
        workers.submit(create)
        asked += 1
times.sort()
lost = asked - len(times)
print(
    json.dumps(
        {
            "asked": asked,
            "created": len(times) - len(failed),
            "failed": failed + ["no answer"] * lost,
            "p50": times[len(times) // 2],
            "p99": times[len(times) * 99 // 100],
            "rate": len(times) / (time.monotonic() - begin),
        }
    )
)
