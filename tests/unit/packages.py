"""All modules of the package, for the tests of what holds in each."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import cmk


def modules() -> list[ModuleType]:
    """Every module of the package, imported."""
    found = pkgutil.walk_packages(cmk.__path__, f"{cmk.__name__}.")
    return [importlib.import_module(each.name) for each in found]


def classes() -> Iterator[type]:
    """Every class that a module of the package defines at its top level."""
    for module in modules():
        yield from (each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__)
