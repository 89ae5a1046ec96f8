"""Bytes of NodeReports; ``python -m tests.unit.agent.test_report_size`` prints them by part."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from cmk.model import report_state
from cmk.model.pods import Pod
from tests.unit.agent.full_nodes import LABELS, bytes_of, full_report, parts

KUBELETS_PODS = 110  # kubelet's default maximum
# CPUs, pods that hold all exclusive cores, tasks of pool shared, and bytes that the report may have.
FULL = [
    (64, 30, 0, 8_000),
    (256, KUBELETS_PODS, 0, 16_000),
    (256, 126, 0, 16_000),
    (512, KUBELETS_PODS, 0, 24_000),
    (512, 254, 0, 24_000),
    (256, KUBELETS_PODS, 5_000, 18_500),
]


@pytest.mark.parametrize(("cpus", "pods", "shared", "most"), FULL)
def test_a_full_node(tmp_path: Path, cpus: int, pods: int, shared: int, most: int) -> None:
    body = full_report(tmp_path, cpus, pods, shared)
    assert bytes_of(body) <= most, parts(body)


def test_all_that_a_plan_asks_of_a_full_node_is_in_it(tmp_path: Path) -> None:
    state = report_state.load(json.loads(json.dumps(full_report(tmp_path, 64, 30), sort_keys=True)))
    assert state is not None
    assert state.layout is not None
    assert len({task.lists for task in state.tasks}) == len(state.layout.pools["exclusive"].lists) == 30
    assert len({task.pod for task in state.tasks} & {pod.uid for pod in state.pods}) == 30


def test_more_tasks_of_a_shared_pool_make_it_no_longer(tmp_path: Path) -> None:
    few, many = (bytes_of(full_report(tmp_path / str(count), 64, 30, count)) for count in (1_000, 50_000))
    assert many - few < 100


def test_more_pods_that_request_cores_make_it_no_longer(tmp_path: Path) -> None:
    pods = [Pod(f"{n:036}", "n" * 63, "p" * 253, {"cmk.intel.com/exclusive-cores": 1}) for n in range(5_000)]
    few, many = (bytes_of(full_report(tmp_path / str(count), 64, 1, waiting=pods[:count])) for count in (100, 5_000))
    assert many - few < 100


def test_labels_that_no_configuration_uses_make_it_no_longer(tmp_path: Path) -> None:
    body = full_report(tmp_path, 64, 30)
    assert [key for key in LABELS if key in json.dumps(body)] == []


def test_each_cpu_list_is_named_where_kubectl_users_look_for_it_and_nowhere_else(tmp_path: Path) -> None:
    text = json.dumps(full_report(tmp_path, 64, 30))
    assert text.count('"5,37"') == 2  # as the key of CMK's shape, and as its "cpus"


if __name__ == "__main__":
    for shape in FULL:
        with tempfile.TemporaryDirectory() as directory:
            print(*shape[:3], json.dumps(parts(full_report(Path(directory), *shape[:3]))))
