from __future__ import annotations

from cmk.model.errors import CmkError
from tests.unit import packages


def test_every_exception_class_is_a_cmk_error() -> None:
    exceptions = {each for each in packages.classes() if issubclass(each, BaseException)}
    assert len(exceptions) > 20
    # cmk.isolate imports nothing of the rest.
    strangers = {each for each in exceptions if not issubclass(each, CmkError) and not each.__module__.startswith("cmk.isolate.")}
    assert not strangers
