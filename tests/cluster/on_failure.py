"""What the agents said and how the pods are when a test on a cluster fails, in its report: nobody can ask a cluster that is gone."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from tests.cluster.cluster import AGENTS, NAMESPACE, Cluster

LOGS = ("logs", "-n", NAMESPACE, "-l", AGENTS, "--tail=60", "--prefix", "--timestamps")
QUESTIONS = (
    LOGS,
    (*LOGS, "--previous"),
    ("get", "pods", "-A", "-o", "wide"),
    ("get", "events", "-n", NAMESPACE, "--sort-by=.lastTimestamp"),
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Ask each cluster that the test had."""
    report = yield
    arguments: dict[str, Any] = getattr(item, "funcargs", {})
    if report.failed:
        for cluster in {id(value): value for value in arguments.values() if isinstance(value, Cluster)}.values():
            for question in QUESTIONS:
                done = cluster.script("kubectl", *question, check=False)
                report.sections.append((f"kubectl {' '.join(question)}", (done.stdout + done.stderr)[-8000:]))
    return report
