"""``cmk certs`` as hooks and pods call it."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmk.certificates import install as hooks
from cmk.cli.app import app
from cmk.kube import client
from cmk.kube.client import ApiError
from tests.unit.certificates.objects import Objects
from tests.unit.certificates.test_install import RELEASE, World
from tests.unit.certificates.test_keeper import MANIFEST, ROLE

WHERE = (
    "--namespace=cmk",
    "--secret=cmk-webhook-cert",
    "--service=cmk-webhook",
    "--configuration=cmk-webhook",
    "--owner=cmk-webhook",
)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    found = World()
    monkeypatch.setattr(client, "in_cluster", lambda: found.api)
    monkeypatch.setattr(hooks, "SECONDS_TO_SPREAD", 0)
    return found


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["certs", *WHERE, *words])
    return done.exit_code, done.output


def test_create_and_patch(world: World) -> None:
    assert run("create")[0] == 0
    assert run("patch")[0] == 0
    assert world.bundle == world.secret.ca


def test_renew_makes_another(world: World) -> None:
    run("create")
    first = world.secret
    run("create")
    assert world.secret == first
    run("create", "--renew", "--lifetime-hours=1")
    assert world.secret != first


def test_without_a_configuration_patch_fails_in_one_line(world: World) -> None:
    run("create")
    world.api.store.pop(RELEASE.configuration_path)
    assert run("patch") == (
        1,
        "cmk: certs: there is no MutatingWebhookConfiguration cmk-webhook: install the chart with its webhook\n",
    )


def test_without_a_secret_patch_fails_in_one_line(world: World) -> None:
    assert run("patch") == (
        1,
        "cmk: certs: there is no Secret cmk/cmk-webhook-cert: create it, or run cmk certs create\n",
    )


def test_outside_a_pod_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Objects:
        raise ApiError("not in a pod with a service account")

    monkeypatch.setattr(client, "in_cluster", refuse)
    assert run("create") == (75, "cmk: certs: not in a pod with a service account\n")


def test_a_mode_that_is_none(world: World) -> None:
    assert run("keep", "--lease=l", "--mode=acme") == (2, "cmk: --mode=acme is not one of hooks, certManager, secret\n")


def test_keep_ends_on_sigterm_and_gives_the_lease_back(world: World, tmp_path: Path) -> None:
    (tmp_path / "webhook.json").write_text(json.dumps(MANIFEST))
    world.api.put(ROLE, {"metadata": {"name": "cmk-webhook"}})

    ended = threading.Event()

    def stop() -> None:
        while not world.bundle:
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        code, _ = run("keep", "--lease=l", f"--manifest={tmp_path}/webhook.json", f"--files={tmp_path}")
    finally:
        ended.set()
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert code == 0
    (lease,) = (found for path, found in world.api.store.items() if "/leases/" in path)
    assert lease["spec"]["holderIdentity"] == ""
