"""Create pods at a steady rate and tell what became of them, as JSON. Run inside the cluster's network, with KUBECONFIG set.

Usage: creator.py RATE SECONDS NAMESPACE [plain]; pods ask for a core unless they are ``plain``, and no scheduler places them.
"""

from __future__ import annotations

import json
import os
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
resources = {} if sys.argv[4:] == ["plain"] else {"limits": {"cmk.intel.com/exclusive-cores": "1"}}
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
        elif resources and "cmk.intel.com/resources-injected" not in made["metadata"].get("annotations", {}):
            failed.append("created as it was written")


begin = time.monotonic()
with ThreadPoolExecutor(16) as workers:
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        workers.submit(create)
times.sort()
lost = int(rate * seconds) - len(times)
print(
    json.dumps(
        {
            "created": len(times) - len(failed),
            "failed": failed + ["no answer"] * lost,
            "p50": times[len(times) // 2],
            "p99": times[len(times) * 99 // 100],
            "rate": len(times) / (time.monotonic() - begin),
        }
    )
)
