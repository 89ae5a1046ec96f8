"""All layers on fabricated hosts: resumed, refitted, undone, and what survives a kill at any write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmk.host import state
from cmk.isolation.originals import Saved
from cmk.model.cgroup_path import parent_of
from cmk.model.isolation_config import Isolation
from tests.unit.isolation.cgrouptree import snapshot
from tests.unit.isolation.hosts import (
    ALL,
    AT_BEFORE,
    AT_LAST,
    BEFORE,
    CORE,
    FOUR,
    GROUPS,
    LAST,
    OTHER,
    OWNER,
    TASK,
    Host,
    four,
    in_loop,
    killed_at_each_write,
    undo_killed_at_each_write,
)


@pytest.mark.parametrize("strict", [True, False], ids=["v1", "v2"])
def test_killed_at_any_write_the_next_agent_completes_and_undoes(tmp_path: Path, strict: bool) -> None:
    def scenario() -> None:
        for host in killed_at_each_write(tmp_path, Isolation(), strict=strict):
            layers = host.layers()
            layers.resume()
            assert layers.states()["pods"].state == "on"
            layers.apply(Isolation(), "")
            assert host.with_core() == {OWNER}
            assert not CORE.cpus & host.kernel.effective(
                parent_of(OTHER)
            )  # containers of cgroup v2 that come later have the pod's
            layers.stop()
            undo_killed_at_each_write(host)
            if strict:
                assert snapshot(host.cgroups) == host.original
            assert {host.may_use(path) for path in GROUPS} == {ALL}
            assert not host.file.exists()

    in_loop(scenario)


def test_settings_of_an_earlier_agent_are_resumed(host: Host) -> None:
    def scenario() -> None:
        first = host.layers()
        first.apply(Isolation(), "")
        first.stop()
        second = host.layers()
        second.resume()
        assert second.states()["pods"].state == "on"
        assert host.kernel.writes == []
        assert second.drift == 0
        second.stop()

    in_loop(scenario)


def test_originals_of_another_boot_are_void(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(), "")
        layers.stop()
        saved = state.read(host.file, Saved)
        assert saved is not None
        state.write(host.file, msgspec.structs.replace(saved, boot="another"), durable=False)
        layers = host.layers()
        layers.resume()
        assert layers.states()["pods"].state == "off"
        layers.stop()

    in_loop(scenario)


def test_without_access_every_layer_is_impossible(host: Host) -> None:
    def scenario() -> None:
        layers = host.layers(cgroups=False)
        layers.apply(Isolation(host="slices", irqs="on"), "")
        states = {name: layer.state for name, layer in layers.states().items()}
        impossible = dict.fromkeys(("pods", "host", "irqs"), "impossible")
        assert states == impossible | dict.fromkeys(("ownPod", "idle", "partition"), "off")
        layers.stop()

    in_loop(scenario)


@pytest.mark.parametrize("strict", [True, False], ids=["v1", "v2"])
def test_others_leave_a_core_before_its_new_owner_comes_and_get_the_old_one_after_it_has_gone(
    tmp_path: Path, strict: bool
) -> None:
    host = Host(tmp_path, strict=strict, topology=FOUR, layout=four(LAST))
    host.add("../system.slice")

    def scenario() -> None:
        layers = host.layers()
        layers.apply(Isolation(host="slices"), "")
        assert host.ledger.restore(AT_LAST)
        layers.enforce()
        assert host.may_use(OTHER) == "0-2"
        host.ledger.announce(four(BEFORE), {TASK.process: BEFORE.cpus})
        host.ledger.begin()
        layers.refit()
        assert host.kernel.effective(OWNER) >= {2, 3}, "the owner may go there"
        assert host.may_use(OTHER) == "0-1", "no other container may"
        assert strict or host.may_use("../system.slice") == "0-1"
        host.ledger.end(four(BEFORE), [AT_BEFORE])
        layers.refit()
        assert host.kernel.effective(OWNER) >= BEFORE.cpus
        assert host.may_use(OTHER) == "0-1,3", "the core that was exclusive is open to all"
        assert strict or host.may_use("../system.slice") == "0-1,3"
        layers.undo()

    in_loop(scenario)
    if not strict:
        assert host.may_use("../system.slice") == "0-3"


class Disk:
    """The disk of the file of originals. ``fails`` tells by the number of a write, from 1, whether there is no room for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails: Callable[[int], bool] = lambda _: False
        self.writes = 0
        self._replace = state.replace
        monkeypatch.setattr(state, "replace", self._write)

    def _write(self, path: Path, data: bytes, **more: Any) -> None:  # noqa: ANN401
        self.writes += 1
        if self.fails(self.writes):
            raise state.StateError(f"cannot write {path}: No space left on device")
        self._replace(path, data, **more)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_layer_is_impossible_on_a_full_disk_and_on_once_there_is_room(
    host: Host, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmk.isolation.layers.SECONDS_BETWEEN_PASSES", 0.01)

    async def scenario() -> None:
        assert host.ledger.restore(TASK)
        disk.fails = lambda _: True
        layers = host.layers()
        layers.apply(Isolation(), "")
        found = layers.states()["pods"]
        assert (found.state, found.reason) == ("impossible", f"cannot write {host.file}: No space left on device")
        assert snapshot(host.cgroups) == host.original
        disk.fails = lambda _: False
        async with asyncio.timeout(20):
            while layers.states()["pods"].state != "on":
                await asyncio.sleep(0.01)
        assert host.with_core() == {OWNER}
        layers.stop()

    asyncio.run(scenario())


def test_the_next_agent_goes_on_without_a_write(host: Host, disk: Disk) -> None:
    def scenario() -> None:
        assert host.ledger.restore(TASK)
        layers = host.layers()
        layers.apply(Isolation(), "")
        layers.stop()
        before, disk.fails = disk.writes, lambda _: True
        layers = host.layers()
        layers.resume()
        layers.apply(Isolation(), "")
        assert layers.states()["pods"].state == "on"
        assert host.with_core() == {OWNER}
        assert disk.writes == before
        layers.stop()

    in_loop(scenario)


@pytest.mark.parametrize("strict", [True, False], ids=["v1", "v2"])
@pytest.mark.parametrize("number", range(1, 8))
def test_a_write_that_fails_ends_nothing_and_loses_no_original(tmp_path: Path, disk: Disk, number: int, strict: bool) -> None:
    def scenario() -> None:
        host = Host(tmp_path / "host", strict=strict)
        assert host.ledger.restore(TASK)
        disk.fails = lambda now: now == number
        layers = host.layers()
        layers.apply(Isolation(partition="auto"), "")
        layers.enforce()
        layers.refit()
        layers.undo()
        layers = host.layers()  # an undoing that could not be saved is repeated
        layers.resume()
        layers.undo()
        assert {host.may_use(path) for path in GROUPS} == {ALL}
        if strict:
            assert snapshot(host.cgroups) == host.original

    in_loop(scenario)


def test_without_a_whole_file_of_originals_no_layer_does_anything(host: Host) -> None:
    def scenario() -> None:
        host.file.write_text("{")
        layers = host.layers()
        layers.resume()
        layers.apply(Isolation(), "")
        layers.enforce()
        layers.refit()
        found = layers.states()
        assert {layer.state for layer in found.values()} == {"impossible"}
        assert str(host.file) in found["pods"].reason
        assert layers.fault == found["pods"].reason
        layers.undo()
        assert snapshot(host.cgroups) == host.original
        assert host.file.read_text() == "{"

    in_loop(scenario)


def test_the_generation_before_of_the_originals_is_used_and_told(host: Host) -> None:
    def scenario() -> None:
        assert host.ledger.restore(TASK)
        layers = host.layers()
        layers.apply(Isolation(), "")
        layers.stop()
        host.file.write_text("{")
        layers = host.layers()
        layers.resume()
        assert f"going on with the generation before, {host.file}.old" in layers.fault
        layers.undo()
        assert {host.may_use(path) for path in GROUPS} == {ALL}

    in_loop(scenario)
