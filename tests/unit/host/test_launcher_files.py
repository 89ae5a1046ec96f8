from pathlib import Path

import pytest

from cmk.host.launcher_files import InstallError, install, remove


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "launcher"
    path.write_bytes(b"\x7fELF launcher")
    return path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "opt").mkdir()
    return tmp_path / "opt"


def spoil_content(target: Path) -> None:
    target.write_bytes(b"\x7fELF something else")


def spoil_tail(target: Path) -> None:
    target.write_bytes(b"\x7fELF launcher and more")


def spoil_mode(target: Path) -> None:
    target.chmod(0o600)


def spoil_type(target: Path) -> None:
    target.unlink()
    target.mkdir()


def spoil_link(target: Path) -> None:
    target.rename(target.with_name("other"))
    target.symlink_to("other")


@pytest.mark.parametrize("spoil", [Path.unlink, spoil_content, spoil_tail, spoil_mode, spoil_type, spoil_link])
def test_damage_is_put_right(source: Path, directory: Path, spoil: object) -> None:
    install(source, directory)
    spoil(directory / "cmk")  # type: ignore[operator]
    assert install(source, directory)
    target = directory / "cmk"
    assert not target.is_symlink()
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (source.read_bytes(), 0o755)
    assert not install(source, directory)


def test_a_directory_with_content_is_left_alone(source: Path, directory: Path) -> None:
    (directory / "cmk").mkdir()
    (directory / "cmk/precious").touch()
    with pytest.raises(InstallError, match="move it away"):
        install(source, directory)


def test_a_directory_that_is_not_there_is_named(source: Path, directory: Path) -> None:
    with pytest.raises(InstallError, match="none/cmk: No such file"):
        install(source, directory / "none")


def test_remove_twice(source: Path, directory: Path) -> None:
    install(source, directory)
    remove(directory, "cmk", "agent.sock")
    remove(directory, "cmk", "agent.sock")
    assert not list(directory.iterdir())
