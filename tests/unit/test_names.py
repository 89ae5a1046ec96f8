from __future__ import annotations

from collections import Counter

from tests.unit import packages


def twice(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def test_a_class_name_stands_once_in_the_package() -> None:
    assert not twice([each.__name__ for each in packages.classes()])


def test_a_module_name_stands_once_in_the_package() -> None:
    names = [each.__name__ for each in packages.modules() if not hasattr(each, "__path__")]
    assert not twice([name.rpartition(".")[2] for name in names])
