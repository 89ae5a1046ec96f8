"""Launcher and socket in a directory that somebody else damages: what is put right, how often, and what never stops the agent."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cmk.agent import served_directory
from cmk.agent.served_directory import ServedDirectory
from cmk.host import inotify
from tests.unit.agent.harness import Client, Node, on_node, text_of

pytestmark = pytest.mark.usefixtures("clients_in_pod", "own_affinity")


async def is_served(directory: Path) -> bool:
    async with await Client.start(directory / "agent.sock", text_of("shared")) as client:
        return (await client.answer())[0].startswith("cmk/1 ok")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def is_launcher(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.read_bytes() == b"launcher"


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def empty_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("intrude", [fifo, link, empty_directory])
@pytest.mark.parametrize("when", ["before the start", "later"])
def test_what_lies_in_the_place_of_launcher_and_socket_is_replaced(
    tmp_path: Path, intrude: Callable[[Path], None], when: str
) -> None:
    old = tmp_path / "old"

    def put_in_place() -> None:
        old.mkdir(exist_ok=True)
        for name in ("cmk", "agent.sock"):
            (old / name).unlink(missing_ok=True)
            intrude(old / name)

    async def scenario(node: Node) -> None:
        if when == "later":
            put_in_place()
        await until(lambda: is_launcher(old / "cmk") and (old / "agent.sock").is_socket())
        assert await is_served(old)
        assert await is_served(tmp_path / "opt")

    if when == "before the start":
        put_in_place()
    on_node(tmp_path, scenario)


@pytest.mark.parametrize("name", ["cmk", "agent.sock"])
def test_what_cannot_be_replaced_stops_nothing_else(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(served_directory, "SECONDS_BEFORE_REPAIR", 0.001)
    monkeypatch.setattr(served_directory, "MOST_SECONDS_BEFORE_REPAIR", 0.1)
    full = tmp_path / "old" / name / "full"
    full.mkdir(parents=True)

    async def scenario(node: Node) -> None:
        assert await is_served(tmp_path / "opt")
        assert any(str(full.parent) in text for text in node.service.troubles)
        assert node.service.is_serving
        full.rmdir()
        await until(lambda: not node.service.troubles)
        assert await is_served(tmp_path / "old")

    on_node(tmp_path, scenario)
    assert sum(str(full.parent) in record.message for record in caplog.records if record.levelname == "ERROR") == 1


def test_a_launcher_that_cannot_be_read_for_a_while_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_directory, "SECONDS_BEFORE_REPAIR", 0.001)
    monkeypatch.setattr(served_directory, "MOST_SECONDS_BEFORE_REPAIR", 0.1)

    async def scenario(node: Node) -> None:
        source = node.options.launcher
        source.rename(tmp_path / "away")
        (tmp_path / "old/cmk").unlink()
        await until(lambda: any("cannot read" in text for text in node.service.troubles))
        assert await is_served(tmp_path / "old")
        (tmp_path / "away").rename(source)
        await until(lambda: is_launcher(tmp_path / "old/cmk") and not node.service.troubles)

    on_node(tmp_path, scenario)


def test_an_agent_serves_without_one_of_its_directories(tmp_path: Path) -> None:
    async def run() -> None:
        node = Node(tmp_path)
        (tmp_path / "old").rmdir()
        node.start()
        try:
            assert await is_served(tmp_path / "opt")
            assert any(str(tmp_path / "old") in text for text in node.service.troubles)
            (tmp_path / "opt/agent.sock").unlink()
            assert not node.service.is_serving
        finally:
            node.service.stop()

    asyncio.run(run())


def test_a_socket_that_somebody_else_serves_is_not_taken_for_ours(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        path = tmp_path / "old/agent.sock"
        path.unlink()
        os.mknod(path, 0o140666)  # on most file systems with the inode that has just come free
        await until(lambda: node.service._server.is_intact(tmp_path / "old"))
        assert await is_served(tmp_path / "old")

    on_node(tmp_path, scenario)


def test_without_inotify_damage_is_seen_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_directory, "MOST_SECONDS_BEFORE_REPAIR", 0.02)

    def refuse(self: inotify.DirectoryWatch, directory: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(inotify.DirectoryWatch, "add", refuse)

    async def scenario(node: Node) -> None:
        assert any("changes of" in text for text in node.service.troubles)
        (tmp_path / "old/cmk").unlink()
        await until(lambda: is_launcher(tmp_path / "old/cmk"))

    on_node(tmp_path, scenario)


def test_damage_without_end_is_put_right_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(served_directory, "SECONDS_BEFORE_REPAIR", 0.001)
    monkeypatch.setattr(served_directory, "MOST_SECONDS_BEFORE_REPAIR", 0.008)
    pauses: list[float] = []
    look_after, put_right = ServedDirectory._look_after, ServedDirectory._put_right

    def noted(self: ServedDirectory, seconds: float) -> None:
        pauses.append(seconds)
        look_after(self, seconds)

    def in_vain(self: ServedDirectory) -> list[str]:
        made = put_right(self)
        (tmp_path / "old/cmk").unlink()
        return made

    async def scenario(node: Node) -> None:
        monkeypatch.setattr(ServedDirectory, "_look_after", noted)
        monkeypatch.setattr(ServedDirectory, "_put_right", in_vain)
        (tmp_path / "old/cmk").unlink()
        await until(lambda: len(pauses) > 20)
        assert any("again and again" in text for text in node.service.troubles)

    on_node(tmp_path, scenario)
    assert pauses[:3] == [0.001, 0.002, 0.004]
    assert set(pauses[3:]) == {0.008}
    assert sum("again and again" in record.message for record in caplog.records) == 1
    assert sum("restored" in record.message for record in caplog.records if record.levelname == "WARNING") <= 4


def test_after_a_calm_time_damage_is_put_right_soon_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_directory, "SECONDS_CALM", 0.0)
    monkeypatch.setattr(served_directory, "SECONDS_BEFORE_REPAIR", 0.001)

    async def scenario(node: Node) -> None:
        (directory,) = (one for one in node.service._directories if one._path == tmp_path / "old")
        directory._pause = 0.064
        (tmp_path / "old/cmk").unlink()
        await until(lambda: directory._pause == 0.128)
        (tmp_path / "old/anything").touch()
        await until(lambda: directory._pause == 0.001)

    on_node(tmp_path, scenario)


def test_changes_without_end_are_looked_at_once_a_pause(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        (directory,) = (one for one in node.service._directories if one._path == tmp_path / "old")
        assert directory._watch is not None
        (tmp_path / "old/a").touch()
        await until(lambda: directory._timer is not None)
        assert not asyncio.get_running_loop().remove_reader(directory._watch.fileno())
        await until(lambda: directory._timer is None)
        assert asyncio.get_running_loop().remove_reader(directory._watch.fileno())

    on_node(tmp_path, scenario)


def test_remove_files_leaves_what_is_not_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(node: Node) -> None:
        node.service.stop()
        (tmp_path / "old/cmk").unlink()
        (tmp_path / "old/cmk").mkdir()
        node.service.remove_files()

    on_node(tmp_path, scenario)
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["cmk"]
    assert list((tmp_path / "opt").iterdir()) == []
    assert f"cannot remove {tmp_path}/old/cmk" in caplog.text
