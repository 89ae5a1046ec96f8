"""Files in a directory in which somebody else swaps names at the worst moments: a hook runs between two system calls of the agent."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cmk.host import foreign
from cmk.host.foreign import ForeignDirectory, Troubles, opened

CONTENT = b"content"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    (tmp_path / "precious").write_text("precious")
    return tmp_path / "place"


@pytest.fixture
def there(place: Path) -> Iterator[ForeignDirectory]:
    with opened(place) as directory:
        yield directory


def fifo(target: Path) -> None:
    os.mkfifo(target)


def link(target: Path) -> None:
    target.symlink_to(target.parents[1] / "precious")


def dead_link(target: Path) -> None:
    target.symlink_to("nowhere")


def own_socket(target: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(target))


def null_device(target: Path) -> None:
    os.mknod(target, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def endless_file(target: Path) -> None:
    target.touch()
    os.truncate(target, 1 << 40)


def empty_directory(target: Path) -> None:
    target.mkdir()


def forbidden_file(target: Path) -> None:
    target.touch(0)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


INTRUDERS = [fifo, link, dead_link, own_socket, null_device, endless_file, empty_directory, forbidden_file]


@pytest.mark.parametrize("intrude", INTRUDERS)
def test_whatever_has_the_name_is_not_ours_and_is_replaced(
    place: Path, there: ForeignDirectory, intrude: Callable[[Path], None]
) -> None:
    intrude(place / "name")
    assert not there.holds("name", CONTENT, 0o755)
    there.put("name", CONTENT, 0o755)
    assert there.holds("name", CONTENT, 0o755)
    assert names(place) == ["name"]
    assert (place.parent / "precious").read_text() == "precious"


@pytest.mark.parametrize("intrude", INTRUDERS)
def test_a_socket_replaces_whatever_has_its_name(place: Path, there: ForeignDirectory, intrude: Callable[[Path], None]) -> None:
    intrude(place / "name")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
    ):
        file = there.listen(listener, "name", 0o666, 1)
        client.connect(f"/proc/self/fd/{file}")
        status = there.status("name")
        assert os.path.samestat(status, os.fstat(file))
        os.close(file)
    assert stat.filemode(status.st_mode) == "srw-rw-rw-"
    assert names(place) == ["name"]


@pytest.mark.parametrize("mode", [0o700, 0o4755, 0o777])
def test_another_mode_is_a_difference(place: Path, there: ForeignDirectory, mode: int) -> None:
    there.put("name", CONTENT, 0o755)
    (place / "name").chmod(mode)
    assert not there.holds("name", CONTENT, 0o755)


def test_a_file_of_somebody_else_is_a_difference(place: Path, there: ForeignDirectory) -> None:
    there.put("name", CONTENT, 0o755)
    os.chown(place / "name", 65532, -1)
    assert not there.holds("name", CONTENT, 0o755)


def test_a_lease_on_a_file_holds_nobody_up(place: Path, there: ForeignDirectory) -> None:
    there.put("name", CONTENT, 0o755)
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # which would tell the holder of the lease
    try:
        with (place / "name").open("rb+") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            assert not there.holds("name", CONTENT, 0o755)
    finally:
        signal.signal(signal.SIGIO, before)


def test_an_own_directory_with_content_stays(place: Path, there: ForeignDirectory) -> None:
    (place / "name").mkdir()
    (place / "name/precious").touch()
    with pytest.raises(OSError, match="not empty"):
        there.put("name", CONTENT, 0o755)
    assert names(place) == ["name"]


def test_what_is_replaced_while_it_is_made_is_not_written_through(
    place: Path, there: ForeignDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sees the new directory appear moves it away and links others into its place, and into that of the file."""
    real = os.fdopen

    def swapped(fd: int, mode: str) -> object:
        (name,) = names(place)
        (place / name).rename(place / "moved")
        (place / name).symlink_to(place.parent)
        (place / "moved/new").unlink()
        (place / "moved/new").symlink_to(place.parent / "precious")
        return real(fd, mode)

    monkeypatch.setattr(os, "fdopen", swapped)
    there.put("name", CONTENT, 0o777)
    assert (place.parent / "precious").read_text() == "precious"
    assert (place.parent / "precious").stat().st_mode & 0o777 != 0o777


@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_directory_of_somebody_else_in_place_of_the_new_one_is_not_entered(
    place: Path, there: ForeignDirectory, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    real = os.mkdir

    def swapped(name: str, *rest: int, dir_fd: int) -> None:
        real(name, *rest, dir_fd=dir_fd)
        (place / name).chmod(mode)
        os.chown(place / name, 65532, -1)

    monkeypatch.setattr(os, "mkdir", swapped)
    with pytest.raises(PermissionError, match="somebody has replaced"):
        there.put("name", CONTENT, 0o755)
    assert names(place) == []


def test_the_umask_is_as_before(there: ForeignDirectory) -> None:
    before = os.umask(0o027)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            os.close(there.listen(listener, "name", 0o666, 1))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_a_long_path_is_no_obstacle_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 120)
    deep.mkdir()
    with opened(deep) as there, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        os.close(there.listen(listener, "agent.sock", 0o666, 1))
    assert (deep / "agent.sock").is_socket()


def test_a_link_is_no_directory_below(place: Path, there: ForeignDirectory) -> None:
    (place / "below").symlink_to(place.parent)
    with pytest.raises(NotADirectoryError), there.below("below"):
        pass


def test_leftovers_are_removed_and_nothing_else(place: Path, there: ForeignDirectory) -> None:
    for name in (".cmk-new-1", ".cmk-new-2", "other"):
        (place / name).mkdir(mode=0o700)
        (place / name / "new").touch()
    (place / ".cmk-new-2").chmod(0o755)
    (place / ".cmk-new-3").symlink_to("other")
    (place / ".cmk-new-4").touch()
    there.remove_leftovers()
    assert names(place) == [".cmk-new-2", ".cmk-new-3", ".cmk-new-4", "other"]
    assert (place / "other/new").exists()


def test_a_listing_is_bounded(place: Path, there: ForeignDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "LISTED", 3)
    for number in range(5):
        (place / str(number)).touch()
    assert len(there.names()) == len(there.names()) == 3


def test_a_trouble_is_logged_once_and_kept_until_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    troubles = Troubles()
    for text in ("bad", "bad", "worse", "worse"):
        troubles.note(Path("/b"), text)
    troubles.note(Path("/a"), "also")
    assert [record.message for record in caplog.records] == ["bad", "worse", "also"]
    assert troubles.texts == ["also", "worse"]
    troubles.note(Path("/b"), "")
    assert troubles.texts == ["also"]
