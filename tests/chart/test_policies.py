"""What the policies of the chart allow is what the agent writes."""

from __future__ import annotations

import subprocess
from typing import Any

import yaml

from cmk.kube.lease import DURATION_SECONDS
from cmk.kube.node import LABEL, TAINT
from cmk.model.pods import RESOURCE_PREFIX
from tests.chart.test_printed_values import CHART


def rules(name: str) -> str:
    """The expressions of one of the policies."""
    settings = "agent.ownNodePolicy=always,rollout.maxUnavailable=1"
    line = ["helm", "template", "cmk", str(CHART), "-n", "ns", "--set", settings]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    items: list[dict[str, Any]] = [item for item in yaml.safe_load_all(text) if item]
    (found,) = (item for item in items if item["kind"] == "ValidatingAdmissionPolicy" and item["metadata"]["name"] == name)
    return "\n".join(rule["expression"] for rule in found["spec"]["validations"])


def test_the_label_and_the_taint_are_the_agents() -> None:
    text = rules("cmk-node-own-node")
    assert f"key == '{LABEL}'" in text
    assert f"taint.key == '{TAINT['key']}'" in text
    assert f"taint.effect == '{TAINT['effect']}' && taint.?value.orValue('') == '{TAINT['value']}'" in text


def test_the_resources_are_the_agents() -> None:
    assert f"key.startsWith('{RESOURCE_PREFIX}')" in rules("cmk-node-own-node-status")


def test_a_turn_lasts_as_long_as_the_agent_asks_for() -> None:
    assert f"leaseDurationSeconds.orValue(0) <= {DURATION_SECONDS}" in rules("cmk-node-own-turn")
