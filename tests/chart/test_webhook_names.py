"""Names that chart and program both write are the same."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import yaml

from cmk.certificates.install import WEBHOOK
from cmk.webhook.mutate import _TRUE, ASK, MIRROR, OLD_RESOURCES
from tests.chart.test_printed_values import CHART


def webhook() -> dict[str, Any]:
    text = subprocess.run(["helm", "template", "cmk", str(CHART), "-n", "ns"], capture_output=True, text=True, check=True).stdout
    (found,) = (item for item in yaml.safe_load_all(text) if item and item["kind"] == "MutatingWebhookConfiguration")
    return dict(found["webhooks"][0])


def test_the_webhook_that_is_patched_is_the_one_that_is_there() -> None:
    assert webhook()["name"] == WEBHOOK


def test_what_asks_for_cores_is_sent() -> None:
    asks, mirror = (condition["expression"] for condition in webhook()["matchConditions"])
    for word in (*OLD_RESOURCES, ASK, *_TRUE):
        assert f"'{word}'" in asks
    assert f"'{MIRROR}'" in mirror


def test_what_the_keeper_puts_back_is_what_helm_made() -> None:
    text = subprocess.run(["helm", "template", "cmk", str(CHART), "-n", "ns"], capture_output=True, text=True, check=True).stdout
    items = [item for item in yaml.safe_load_all(text) if item]
    (kept,) = (json.loads(item["data"]["webhook.json"]) for item in items if "webhook.json" in (item.get("data") or {}))
    (made,) = (item for item in items if item["kind"] == "MutatingWebhookConfiguration")
    assert kept.pop("metadata")["name"] == made.pop("metadata")["name"]
    assert kept == made
