"""docs/architecture.md names files and definitions that exist, and draws the packages as import-linter checks them."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
TEXT = (REPO / "docs/architecture.md").read_text()
SPANS = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S))))
# A path has a slash or a suffix of a source file; options, commands, files of nodes and names of objects have neither.
PATH = re.compile(r"^(?:[\w.-]+/)+[\w.-]*$|^[\w-]+\.(?:py|toml|md)$")


def _file(text: str) -> Path | None:
    return next((path for path in (REPO / text, REPO / "image/cmk" / text) if path.exists()), None)


def _python_names(tree: ast.Module | ast.ClassDef) -> set[str]:
    """Names that a module defines at its top level; those of a class's members as ``Class.member``."""
    names = set()
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                names |= {name, *(f"{name}.{member}" for member in _python_names(node))}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=targets):
                names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _defines(path: Path, name: str) -> bool:
    text = path.read_text()
    if path.suffix == ".py":
        return name in _python_names(ast.parse(text))
    if path.suffix == ".tpl":
        return f'define "{name}"' in text
    return re.search(rf"^\w[^;\n]*\b{re.escape(name)}\([^;\n]*$", text, re.M) is not None


def test_every_path_exists() -> None:
    paths = [span for span in SPANS if PATH.match(span)]
    assert len(paths) > 60
    assert [path for path in paths if _file(path) is None] == []


def test_every_definition_exists() -> None:
    references = [span.split("::") for span in SPANS if "::" in span and span != "file::name"]
    assert len(references) > 60
    assert [f"{path}::{name}" for path, name in references if (file := _file(path)) is None or not _defines(file, name)] == []


@pytest.mark.parametrize("name", ["parse_isolat", "isolate_parse", "struct"])
def test_a_function_of_the_launcher_that_does_not_exist_is_noticed(name: str) -> None:
    assert not _defines(REPO / "image/launcher/grammar.c", name)


def test_the_picture_has_the_layers_of_import_linter() -> None:
    contracts = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    (picture,) = re.findall(r"^```\n(.*?)^```$", TEXT, re.M | re.S)
    packages = {name for layer in layers for name in layer.split(" | ")}
    drawn = [[word for word in line[:60].split() if word in packages] for line in picture.splitlines()]
    assert drawn == [layer.split(" | ") for layer in layers]


def test_every_package_is_drawn() -> None:
    (picture,) = re.findall(r"^```\n(.*?)^```$", TEXT, re.M | re.S)
    assert [path.parent.name for path in (REPO / "image/cmk").glob("*/__init__.py") if path.parent.name not in picture] == []
