"""Files and objects that outlive a version of cmk: what earlier versions wrote is read, and written again with the same names."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cmk.direct.pools import LayoutFile, PoolsFile
from cmk.host.journal import Journal
from cmk.host.notify import Notice
from cmk.isolate import local
from cmk.model import report_state
from cmk.model.layout import SavedLayout
from cmk.model.node_state import NodeState
from cmk.model.tasks import Process, TasksFile

CORE_0 = """{"id": 0, "socket": 0, "cpus": [0, 2], "isolated_cpus": [0], "base_frequency": 2400000, "energy_preference": "performance"}"""
CORE_1 = """{"id": 1, "socket": 0, "cpus": [1, 3], "isolated_cpus": [], "base_frequency": 0, "energy_preference": ""}"""
TOPOLOGY = f"""{{"cores": [{CORE_0}, {CORE_1}], "isolated_from": ["sysfs"], "unbalanced": [0], "nohz_full": [1]}}"""
POOLS = """{
  "exclusive": {"cores": {"0": 1}, "cpus": null, "exclusive": true, "mode": "packed", "prefer": "sst-bf"},
  "infra": {"cores": "rest", "cpus": null, "exclusive": false, "mode": "packed", "prefer": null},
  "named": {"cores": null, "cpus": "2-3", "exclusive": false, "mode": "packed", "prefer": null},
  "shared": {"cores": [1], "cpus": null, "exclusive": false, "mode": "spread", "prefer": null}
}"""
ISOLATION = """{"pods": true, "ownPod": true, "host": "off", "irqs": "off", "partition": "off", "idle": "reserved"}"""
SECTION = f"""{{
  "pools": {POOLS}, "hash": "abc", "taint": true, "paused": false, "reserved": "auto", "origins": {{"taint": "default"}},
  "isolation": {ISOLATION}, "maxUnavailable": 2
}}"""
LAYOUT = """{
  "pools": {"exclusive": {"name": "exclusive", "exclusive": true, "lists": [{"cpus": [1, 3], "socket": 0}]}},
  "warnings": ["reserved CPUs 9 are not online"]
}"""
SAVED = f"""{{"layout": {LAYOUT}, "section": {SECTION}, "scope": "groups.fast", "topology": {TOPOLOGY}}}"""
TASK = """{
  "process": {"pid": 7, "start": 70}, "pool": "exclusive", "lists": ["1,3"], "pod": "u", "container": "c", "cores": 1, "socket": 0,
  "on_move": {"how": "notify", "signal": 1}, "generation": 3
}"""
HOST_TASK = TASK.rstrip("}") + ', "parent": 1, "left_by": {"pid": 5, "start": 50}}'
POD = """{
  "uid": "u", "namespace": "ns", "name": "web", "grants": {"cmk.intel.com/exclusive-cores": 1}, "config_hash": "h", "terminal": false,
  "on_move": "notify"
}"""
PLAN = f"""{{
  "keeps": [{TASK}], "moves": [{{"task": {TASK}, "lists": ["0,2"], "old_lists": [[1, 3]], "new_lists": [[0, 2]]}}], "refusals": []
}}"""
MEMBER = """{
  "process": {"pid": 8, "start": 80}, "task": {"pid": 7, "start": 70},
  "threads": [{"tid": 8, "start": 80, "before": [1], "since": [1]}]
}"""


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        pytest.param(SavedLayout, SAVED, id="layout.json"),
        pytest.param(TasksFile, f'{{"boot": "b", "tasks": [{TASK}], "pods": [{POD}]}}', id="tasks.json"),
        pytest.param(
            Journal, f'{{"boot": "b", "old": {SAVED}, "new": {SAVED}, "plan": {PLAN}, "members": [{MEMBER}]}}', id="journal.json"
        ),
        pytest.param(Notice, '{"generation": 2, "cpus": "1,3", "lists": ["1,3"]}', id="state/PID-START.json"),
        pytest.param(
            PoolsFile,
            f'{{"saved": {SAVED}, "boot": "b", "tasks": [{HOST_TASK}], "moving": {{"7": ["0,2"]}}, "pidns": "pid:[1]"}}',
            id="pools.json",
        ),
        pytest.param(LayoutFile, f'{{"saved": {SAVED}}}', id="layout.json of direct mode"),
    ],
)
def test_a_state_file_is_read_and_written_as_ever(kind: type[msgspec.Struct], text: str) -> None:
    assert json.loads(msgspec.json.encode(msgspec.json.decode(text, type=kind))) == json.loads(text)


def test_a_pools_file_without_a_check_and_newer_fields_is_read(tmp_path: Path) -> None:
    (tmp_path / "pools.json").write_text(f'{{"saved": {SAVED}, "boot": "b", "tasks": [{TASK}], "moving": {{"7": ["0,2"]}}}}')
    content = msgspec.convert(local.read_sealed(str(tmp_path / "pools.json")), PoolsFile)
    assert (content.tasks[0].process.pid, content.moving, content.pidns) == (7, {"7": ("0,2",)}, "")


def test_a_pools_file_that_an_older_version_has_written_after_a_newer_one_is_read(tmp_path: Path) -> None:
    """It keeps fields that it does not know, with blanks, and so the check of what the newer version had written."""
    text = json.dumps({"saved": json.loads(SAVED), "boot": "b", "tasks": [], "moving": {}, "pidns": "pid:[1]"})
    kept = json.loads(local.seal(text.encode()))
    (tmp_path / "pools.json").write_text(json.dumps({**kept, "tasks": [json.loads(TASK)]}))
    assert len(msgspec.convert(local.read_sealed(str(tmp_path / "pools.json")), PoolsFile).tasks) == 1


def test_the_state_in_a_node_report_of_an_older_agent_is_read() -> None:
    text = f"""{{
      "topology": {TOPOLOGY}, "layout": {LAYOUT}, "section": {SECTION}, "tasks": [{TASK}], "pods": [{POD}], "outside": [0],
      "labels": {{"a": "b"}}, "not_listed": {{"shared": 3}}
    }}"""
    read = report_state.load({"spec": {"report": {}}, "status": {"state": json.loads(text)}})
    assert read is not None
    assert (read.tasks[0].process, read.pods[0].name, read.outside) == (Process(7, 70), "web", {0})
    assert read == msgspec.json.decode(text, type=NodeState)
