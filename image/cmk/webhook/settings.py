"""The webhook's files: ``server.yaml`` and the mutations that it names, as Intel CMK has them, with one more section."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml

from cmk.model.errors import CmkError
from cmk.webhook.rules import Mutations, Rules, RulesError, checked

_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_File = Annotated[str, msgspec.Meta(min_length=1)]
_Directory = Annotated[str, msgspec.Meta(pattern="^/.")]
_T = TypeVar("_T")


class SettingsError(CmkError):
    """A file cannot be read, or its content is not valid; the text names the file and the place in it."""


class Workloads(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """The chart's ``workloads`` values, and the exclusive pools of all its nodes (null: every name is accepted)."""

    install_dir: _Directory = "/opt/cmk"
    mount_path: _Directory = "/opt/bin"
    unsupported_runtime_classes: frozenset[str] = frozenset()
    cpu_requests: bool = False
    pools: frozenset[str] | None = None


class ServerSection(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """The section ``server``: where to listen and which files to use. Port 0 is any free port."""

    cert: _File
    key: _File
    binding_address: str = "0.0.0.0"  # noqa: S104  # Intel CMK's example has it
    port: _Port = 443
    mutations: _File | None = None
    workloads: Workloads = Workloads()


class _ServerFile(msgspec.Struct, forbid_unknown_fields=True):
    server: ServerSection


class _MutationsFile(msgspec.Struct, forbid_unknown_fields=True):
    mutations: Mutations | None = None


class Settings(msgspec.Struct, frozen=True):
    """The content of the files, and their paths."""

    server: ServerSection
    rules: Rules
    files: tuple[Path, ...]


def load(path: Path) -> Settings:
    """Read ``server.yaml`` and its mutations; raises SettingsError."""
    server = _read(path, _ServerFile).server
    rules = Rules(
        install_dir=posixpath.normpath(server.workloads.install_dir),
        mount_path=posixpath.normpath(server.workloads.mount_path),
        unsupported_runtime_classes=server.workloads.unsupported_runtime_classes,
        cpu_requests=server.workloads.cpu_requests,
        pools=server.workloads.pools,
    )
    if server.mutations is None:
        return Settings(server, rules, (path,))
    file = Path(server.mutations)
    mutations = _read(file, _MutationsFile).mutations or Mutations()
    try:
        rules = msgspec.structs.replace(rules, mutations=checked(mutations))
    except RulesError as error:
        raise SettingsError(f"{file}: {error}") from error
    return Settings(server, rules, (path, file))


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        content: Any = yaml.safe_load(path.read_bytes())
        return msgspec.convert(content if content is not None else {}, kind, strict=True)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except (ValueError, RecursionError) as error:  # msgspec's, and PyYAML's for a date that no calendar has
        raise SettingsError(f"{path}: {error}") from error
