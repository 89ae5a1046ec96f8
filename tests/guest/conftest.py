"""The guest of scripts/guest: 16 CPUs, two sockets of four cores, siblings side by side, cgroup v2."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cmk.model import cpuset
from tests.cluster.cluster import AGENTS, CHART, NAMESPACE, Cluster, Json, own_name, wait_for
from tests.cluster.on_failure import pytest_runtest_makereport  # noqa: F401  # a hook

SECONDS = 300  # everything takes its time on an emulated machine

# These tests are about layouts and refusals; hooks and webhook, which tests/cluster sees, take their time here.
SETTINGS = (
    "image.repository=localhost/cmk,image.tag=dev,image.pullPolicy=Never,webhook.enabled=false,plan.enabled=false,verify.enabled=false,"
    "isolation.pods=false"
)


class Guest(Cluster):
    """Its one node is laid out anew as each test asks."""

    def lay_out(self, *settings: str) -> Json:
        """These values and no others; its report once it has them. Without tasks, pools are laid out as on a new node."""
        line = ["upgrade", "--install", "cmk", str(CHART), "-n", NAMESPACE, "--create-namespace", "--reset-values"]
        self.helm(
            *line,
            *(word for setting in (SETTINGS, *settings) for word in ("--set-json" if "={" in setting else "--set", setting)),
        )
        self.kubectl("label", "node", "node1", "cmk-node=enabled", "--overwrite")
        found = wait_for("the node is ready", self._ready, SECONDS)
        wait_for("its agent is the newest, and on infra", self._settled, SECONDS)
        return found

    def _settled(self) -> bool:
        agents = self.get("daemonset", "-n", NAMESPACE, "cmk-node")
        state, pids = agents["status"], self.agent_pids()
        newest = state["observedGeneration"] == agents["metadata"]["generation"] and state.get("updatedNumberScheduled") == 1
        infra = {cpuset.kernel_list(cpuset.parse(cpus)) for cpus in self.lists()["infra"]}
        return newest and state.get("numberReady") == 1 and len(pids) == 1 and self.mask(pids[0]) in infra

    def leave(self) -> None:
        """Out of the selection, so that the next layout is that of a new node."""
        self.kubectl("label", "node", "node1", "cmk-node-")
        wait_for("the node has left", lambda: self.find("cmk-nodereport", "node1") is None, SECONDS)

    def lists(self) -> dict[str, list[str]]:
        """CPU lists by pool, by first CPU: the API server sorts them as text."""
        pools = self.report().items()
        return {name: sorted(pool["cpuLists"], key=lambda cpus: int(cpus.split(",")[0])) for name, pool in pools}

    def mask(self, pid: int) -> str:
        """Where the guest's kernel lets a process run."""
        return self.on_node(1, f"sed -n 's/^Cpus_allowed_list:\t//p' /proc/{pid}/status").strip()

    def switch(self, **layers: str) -> None:
        """Other isolation layers under what runs, on the layout there is."""
        settings = [f"isolation.{name}={value}" for name, value in layers.items()]
        line = ["upgrade", "cmk", str(CHART), "-n", NAMESPACE, "--reuse-values", "--no-hooks"]
        self.helm(*line, *(word for setting in settings for word in ("--set", setting)))
        wanted = {f"node1: {setting} from values" for setting in settings}

        def arrived() -> bool:
            return wanted <= set(self.get("cmk-nodereport", "node1")["status"]["values"])

        wait_for("the layers are as asked", arrived, SECONDS)

    def change(self, *settings: str, condition: str = "ConfigApplied") -> None:
        """Other pools under what runs; until the node says that it has them, or refuses them."""
        line = ["upgrade", "cmk", str(CHART), "-n", NAMESPACE, "--reuse-values", "--no-hooks"]
        before = self.get("cmk-nodereport", "node1")["status"]["history"]
        self.helm(*line, *(word for setting in settings for word in ("--set-json", setting)))
        wait_for("it has come to something", lambda: self.get("cmk-nodereport", "node1")["status"]["history"] != before, SECONDS)
        wait_for(condition, lambda: self.conditions()[condition]["status"] == "True", SECONDS)

    def conditions(self) -> Json:
        """Conditions of the report by type."""
        return {item["type"]: item for item in self.get("cmk-nodereport", "node1")["status"]["conditions"]}

    def told(self, reason: str) -> str:
        """What a condition with this reason says, "" without one."""
        return next((str(item["message"]) for item in self.conditions().values() if item["reason"] == reason), "")

    def restart_agent(self) -> None:
        """Another agent serves the node."""
        self.kubectl("delete", "pods", "-n", NAMESPACE, "-l", AGENTS, "--wait=true")
        ready = ("get", "pods", "-n", NAMESPACE, "-l", AGENTS, "-o", "jsonpath={.items[*].status.containerStatuses[*].ready}")
        wait_for("another agent serves", lambda: self.kubectl(*ready).strip() == "true", SECONDS)

    def message(self, condition: str) -> str:
        """What a condition says."""
        return str(self.conditions()[condition]["message"])

    def layer(self, name: str) -> str:
        """State and reason of a layer."""
        found = self.get("cmk-nodereport", "node1")["status"]["isolation"]["layers"][name]
        return " ".join([found["state"], *filter(None, [found.get("reason", "")]), *found.get("left", [])])

    def groups(self, name: str) -> dict[str, str]:
        """One file of kubepods and every group below."""
        line = f"cd /sys/fs/cgroup/kubepods; for d in $(find . -type d); do echo $d $(cat $d/{name}); done"
        rows = (row.split(maxsplit=1) for row in self.on_node(1, line).splitlines())
        return {row[0]: row[1] if len(row) > 1 else "" for row in rows}

    def masks(self) -> dict[str, str]:
        """Where each thread of the machine may run, those of pods by pod: thread and name → CPUs."""
        line = "grep -Hs '^Cpus_allowed_list' /proc/[0-9]*/task/*/status; grep -Hs . /proc/[0-9]*/task/*/comm; true"
        masks, names = {}, {}
        for row in self.on_node(1, line).splitlines():
            path, _, text = row.partition(":")
            tid = path.split("/")[4]
            if path.endswith("comm"):
                names[tid] = text
            else:
                masks[tid] = text.split()[-1]
        return {f"{tid} {names.get(tid)}": cpus for tid, cpus in masks.items()}

    def _ready(self) -> Json | None:
        found = self.find("cmk-nodereport", "node1")
        status = (found or {}).get("status", {})
        wanted = json.loads(self.get("configmap", "-n", NAMESPACE, "cmk-config")["data"]["config.json"])["default"]["hash"]
        true = {item["type"] for item in status.get("conditions", []) if item["status"] == "True"}
        return found if {"Ready", "ConfigApplied"} <= true and status["configHash"] == wanted else None


@contextmanager
def started(isolcpus: str) -> Iterator[Guest]:
    """A guest with these CPUs isolated, the chart's definitions installed."""
    with own_name("cmk-guest-test") as name:
        guest = Guest(name, "guest")
        guest.script("up", *([isolcpus] if isolcpus else []))
        try:
            guest.helm("install", "cmk", str(CHART), "-n", NAMESPACE, "--create-namespace", "--set", SETTINGS)
            yield guest
        finally:
            guest.api.close()
            if "CMK_KEEP" not in os.environ:
                guest.script("down")


@pytest.fixture(scope="module")
def isolating(guest: Guest) -> Guest:
    """A host that does not exist has agents get all that layers need, so that switching one starts no new agents."""
    guest.lay_out("isolation.pods=true", "hosts.nowhere.isolation.pods=true", "hosts.nowhere.isolation.partition=auto")
    return guest
