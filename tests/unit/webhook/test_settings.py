from __future__ import annotations

from pathlib import Path

import pytest

from cmk.webhook.settings import SettingsError, load
from tests.unit.webhook.seed import MUTATIONS, SERVER


def written(tmp_path: Path, server: str, mutations: str = MUTATIONS) -> Path:
    (tmp_path / "mutations.yaml").write_text(mutations)
    path = tmp_path / "server.yaml"
    path.write_text(server.replace("{mutations}", str(tmp_path / "mutations.yaml")))
    return path


def test_the_files_of_intel_cmk(tmp_path: Path) -> None:
    found = load(written(tmp_path, SERVER))
    assert (found.server.binding_address, found.server.port) == ("0.0.0.0", 443)
    assert (found.server.cert, found.server.key) == ("/etc/ssl/cert.pem", "/etc/ssl/key.pem")
    assert found.rules.mutations.per_container["env"] == [{"name": "CMK_PROC_FS", "value": "/host/proc"}]
    assert found.files == (tmp_path / "server.yaml", tmp_path / "mutations.yaml")


def test_certificate_and_key_are_all_that_must_be_said(tmp_path: Path) -> None:
    found = load(written(tmp_path, "server: {cert: /c, key: /k}"))
    assert (found.rules.install_dir, found.rules.mount_path, found.rules.pools) == ("/opt/cmk", "/opt/bin", None)


def test_the_charts_section(tmp_path: Path) -> None:
    section = "{install-dir: /a/, mount-path: /b//c, cpu-requests: true, pools: [x], unsupported-runtime-classes: [kata]}"
    rules = load(written(tmp_path, f"server: {{cert: /c, key: /k, workloads: {section}}}")).rules
    assert (rules.install_dir, rules.mount_path, rules.cpu_requests) == ("/a", "/b/c", True)
    assert (rules.pools, rules.unsupported_runtime_classes) == ({"x"}, {"kata"})


@pytest.mark.parametrize("mutations", ["", "mutations:", "mutations: {}", "mutations: {perPod: {}}"])
def test_no_mutations_are_fine(tmp_path: Path, mutations: str) -> None:
    assert load(written(tmp_path, SERVER, mutations)).rules.mutations.per_container == {}


@pytest.mark.parametrize(
    ("server", "mutations", "line"),
    [
        ("", MUTATIONS, r"server.yaml: Object missing required field `server`"),
        ("server: {cert: /c}", MUTATIONS, "missing required field `key`"),
        ("server: {cert: /c, key: /k, prot: 1}", MUTATIONS, "unknown field `prot`"),
        ("server: {cert: /c, key: /k, port: 70000}", MUTATIONS, r"<= 65535 - at `\$.server.port`"),
        ("server: {cert: /c, key: /k, workloads: {mount-path: opt}}", MUTATIONS, r"at `\$.server.workloads.mount-path`"),
        ("server: [", MUTATIONS, "server.yaml is not valid YAML"),
        (SERVER, "mutations: {perpod: {}}", "mutations.yaml: Object contains unknown field `perpod`"),
        (SERVER, "mutations: {perPod: {name: x}}", "mutations.yaml: perPod.name is not known: perPod has metadata and spec"),
        (SERVER, "a: b: c", "mutations.yaml is not valid YAML"),
        ("server: {cert: /c, key: /k, mutations: /nowhere}", "", "/nowhere: No such file or directory"),
    ],
)
def test_mistakes_are_told_with_file_and_place(tmp_path: Path, server: str, mutations: str, line: str) -> None:
    with pytest.raises(SettingsError, match=line):
        load(written(tmp_path, server, mutations))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"server.yaml: No such file or directory"):
        load(tmp_path / "server.yaml")


def test_a_date_that_no_calendar_has(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"server.yaml: month must be in 1..12"):
        load(written(tmp_path, "server: {cert: 2020-99-01, key: /k}"))
