from __future__ import annotations

import pytest
import typer

from cmk.cli import common
from cmk.isolate import say
from cmk.model.config import ConfigError


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (ConfigError("pools.x: no"), "cmk: pools.x: no\n", 1),
        (FileNotFoundError(2, "No such file or directory", "/x"), "cmk: [Errno 2] No such file or directory: '/x'\n", 1),
        (say.Failure(75, "no agent answers"), "cmk: no agent answers\n", 75),
    ],
)
def test_an_error_for_users_is_one_line(capfd: pytest.CaptureFixture[str], error: Exception, line: str, code: int) -> None:
    with pytest.raises(typer.Exit) as ended, common.one_line_errors():
        raise error
    assert (capfd.readouterr().err, ended.value.exit_code) == (line, code)


@pytest.mark.parametrize("error", [BrokenPipeError(), KeyError("pool")])
def test_any_other_error_stays_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)), common.one_line_errors():
        raise error
