"""The scripts' cluster, driven as a person would drive it: kubectl, helm and a root shell on its nodes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.api import ApiError, ApiServer, Json

REPO = Path(__file__).parents[2]
CHART = REPO / "charts/cmk"
VALUES = Path(__file__).parent / "values.yaml"
TINY = "localhost/tiny:1"
NAMESPACE = "cmk"
PODS = "/api/v1/namespaces/default/pods"
RESOURCE = "cmk.intel.com/exclusive-cores"
AGENTS = "app.kubernetes.io/component=node"

_T = TypeVar("_T")


def wait_for(what: str, look: Callable[[], _T | None], seconds: float = 180) -> _T:
    """Look until there is something to see. The usual time says that it never will be; a shorter one is a promise."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)


@contextmanager
def own_name(usual: str) -> Iterator[str]:
    """A cluster's name for the length of the block: ``CMK_CLUSTER``, or the first of usual, usual-2, … that no other run has."""
    chosen = os.environ.get("CMK_CLUSTER")
    for name in [chosen] if chosen else [usual, *(f"{usual}-{number}" for number in range(2, 9))]:
        with socket.socket(socket.AF_UNIX) as lock:  # an abstract address: whatever cache they have, and nothing is left of it
            try:
                lock.bind(f"\0cmk-cluster/{name}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            yield name
            return
    raise AssertionError(f"other runs use {chosen or f'{usual} to {usual}-8'}: wait for one, or say CMK_CLUSTER=NAME")


class Cluster:
    """One cluster by name, of ``scripts/cluster`` or ``scripts/guest``."""

    def __init__(self, name: str, script: str = "cluster") -> None:
        self.name = name
        self._script = REPO / "scripts" / script
        self.environment = {**os.environ, "CMK_CLUSTER": name}
        self.api = ApiServer(Path(os.environ["CMK_CACHE"]) / "clusters" / name / "run")

    def script(self, *args: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        done = subprocess.run(
            [self._script, *args],
            env=self.environment,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert not check or done.returncode == 0, f"{' '.join(args)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl; its output."""
        return self.script("kubectl", *args, stdin=stdin).stdout

    def get(self, *args: str) -> Json:
        """An object or a list as JSON, by the words of ``kubectl get``."""
        return self.api.get(*args)

    def find(self, *args: str) -> Json | None:
        """The same, or None when there is nothing."""
        return self.api.find(*args)

    def helm(self, *args: str) -> str:
        """Run helm; its output."""
        return self.script("run", "helm", *args).stdout

    def upgrade(self, *settings: str, program: str = "helm", check: bool = True) -> subprocess.CompletedProcess[str]:
        """``helm upgrade`` to the tests' values and these settings over them, whatever was there; hooks as the values have them."""
        line = (program, "upgrade", "cmk", str(CHART), "-n", NAMESPACE, "--reset-values", "-f", str(VALUES), *settings)
        return self.script("run", *line, check=check)

    def on_node(self, number: int, command: str, *, check: bool = True) -> str:
        """Run a shell line as root on a node."""
        return self.script("node", str(number), "sh", "-c", command, check=check).stdout

    def report(self, node: str = "node1") -> Json:
        """The report's pools."""
        return dict(self.get("cmk-nodereport", node)["spec"]["report"]["description"]["pools"])

    def describe(self, number: int = 1) -> Json:
        """Pools as the agent of a node tells them now."""
        return dict(json.loads(self.on_node(number, "/opt/cmk/cmk describe"))["pools"])

    def tasks(self, pool: str, number: int = 1) -> list[int]:
        """Node pids of a pool's tasks, without the agent's own."""
        agents = set(self.agent_pids(number))
        lists = self.describe(number)[pool]["cpuLists"].values()
        return sorted(pid for item in lists for pid in item["tasks"] if pid not in agents)

    def agent_pids(self, number: int = 1) -> list[int]:
        """Pids of the agents on a node."""
        return [
            int(pid) for pid in self.on_node(number, "pgrep -f '^[^ ]*python3[^ ]* .*/usr/bin/cmk agent'", check=False).split()
        ]

    def capacity(self, node: str = "node1") -> tuple[str | None, str | None]:
        """Capacity and allocatable of the exclusive resource."""
        status = self.get("node", node)["status"]
        return status["capacity"].get(RESOURCE), status["allocatable"].get(RESOURCE)

    @contextmanager
    def pod(self, name: str, *command: str, cores: int = 0, node: str = "node1", wait: bool = True, **more: Any) -> Iterator[Pod]:  # noqa: ANN401
        """A pod with nothing to spare (see ``manifest``), deleted at the end."""
        pod = Pod(self, name)
        self.api.request("POST", PODS, manifest(name, command, cores, node, **more))
        try:
            if wait:
                pod.wait_running()
            yield pod
        finally:
            pod.delete()


class Pod:
    """A pod of the default namespace."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self.name = name

    @property
    def object(self) -> Json:
        """As the API has it."""
        return self._cluster.get("pod", self.name)

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded or Failed."""
        return str(self.object["status"]["phase"])

    @property
    def uid(self) -> str:
        """Its uid."""
        return str(self.object["metadata"]["uid"])

    @property
    def logs(self) -> str:
        """What its container wrote."""
        return self._cluster.api.text("GET", f"{PODS}/{self.name}/log")

    def wait_running(self) -> None:
        """Until the container runs."""
        wait_for(f"pod {self.name} runs", lambda: self.phase == "Running")

    def ended(self) -> Json:
        """Until the container has ended; how."""

        def look() -> Json | None:
            for status in self.object["status"].get("containerStatuses") or []:
                if found := status["state"].get("terminated"):
                    return dict(found)
            return None

        return wait_for(f"pod {self.name} ends", look)

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container."""
        return self._cluster.script("kubectl", "exec", self.name, "--", *command, check=False)

    def processes(self, number: int = 1) -> dict[int, str]:
        """Its processes on the node, but for pause: pid → command line."""
        line = (
            f"for p in $(grep -sl {self.uid} /proc/[0-9]*/cgroup); do d=${{p%/cgroup}}; "
            "echo ${d#/proc/} $(tr '\\0' ' ' <$d/cmdline 2>/dev/null); done"
        )
        found = {}
        for words in (row.split(" ", 1) for row in self._cluster.on_node(number, line).splitlines()):
            if len(words) == 2 and words[1] != "/pause":
                found[int(words[0])] = words[1]
        return found

    def delete(self) -> None:
        """At once."""
        with suppress(ApiError):  # it is gone already
            self._cluster.api.request("DELETE", f"{PODS}/{self.name}", {"gracePeriodSeconds": 0})
        wait_for(f"pod {self.name} is gone", lambda: self._cluster.find("pod", self.name) is None)


def manifest(
    name: str,
    command: tuple[str, ...],
    cores: int = 0,
    node: str = "node1",
    *,
    env: dict[str, str] | None = None,
    **spec: Any,  # noqa: ANN401
) -> Json:
    """A pod as locked down as a workload can be: no user, no capability, no token, read-only root and install directory."""
    container: Json = {
        "name": "app",
        "image": TINY,
        "imagePullPolicy": "Never",
        "command": list(command),
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "cmk", "mountPath": "/opt/cmk", "readOnly": True}],
    }
    if cores:
        container["resources"] = {"limits": {RESOURCE: str(cores)}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "dnsPolicy": "Default",
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"key": "cmk", "operator": "Exists"}],
            "securityContext": {
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "cmk", "hostPath": {"path": "/opt/cmk", "type": "Directory"}}],
            **spec,
        },
    }


def isolate(*command: str, pool: str = "exclusive", options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Command line of a workload."""
    program, *arguments = command
    return ("/opt/cmk/cmk", "isolate", f"--pool={pool}", *options, program, "--", *arguments)
