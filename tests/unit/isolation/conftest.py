from pathlib import Path

import pytest

from tests.unit.isolation.hosts import Host


@pytest.fixture(params=[True, False], ids=["v1", "v2"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, strict=request.param)
