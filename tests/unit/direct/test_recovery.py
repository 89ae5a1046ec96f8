"""What the next command makes of a command that was killed between two writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cmk.direct.pools import JOURNAL, ConfDir
from cmk.host.procfs import Procfs
from cmk.isolate import local
from tests.fabricate import fabricate
from tests.unit.conftest import Host
from tests.unit.direct.test_takeover import tree

NONE = ("--num-exclusive-cores=0", "--num-shared-cores=0")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Host, int, int]:
    """Two exclusive cores, both of this machine."""
    first, second = sorted(os.sched_getaffinity(0))[:2]
    fabricate(tmp_path / "root", {str(first): 0, str(second): 0, "7000": 0})
    host = Host(tmp_path / "conf", tmp_path / "root")
    host.ok("init", "--num-exclusive-cores=2", "--num-shared-cores=0")
    return host, first, second


def test_a_journal_that_a_finished_change_has_left_forgets_nobody(pair: tuple[Host, int, int]) -> None:
    """Killed after the rename that ends a change and before the journal is deleted; meanwhile somebody has taken a core."""
    host, first, _ = pair
    journal = host.directory / JOURNAL
    state = ConfDir(host.directory, Procfs())
    saved = state.saved()
    assert saved is not None
    state._change().start(saved, saved, state.move(state.ledger(saved)[0], saved, saved))
    assert journal.exists()
    with host.isolated("--pool=exclusive") as owner:
        host.ok("reconfigure", "--num-exclusive-cores=2", "--num-shared-cores=0")
        (task,) = local.read_sealed(str(host.directory / local.STATE))["tasks"]
        assert (task["process"]["pid"], task["lists"], journal.exists()) == (owner.pid, [str(first)], False)


def test_init_ignores_the_journal_of_pools_that_were_moved_away(pair: tuple[Host, int, int]) -> None:
    host, _, _ = pair
    (host.directory / JOURNAL).write_text("left over")
    (host.directory / local.STATE).unlink()
    host.ok("init", *NONE)
    assert not (host.directory / JOURNAL).exists()


def test_a_take_over_that_was_killed_before_it_set_the_old_tree_aside_is_finished_by_init(tmp_path: Path) -> None:
    fabricate(tmp_path / "root", {"1": 0, "2": 0})
    host = Host(tmp_path / "conf", tmp_path / "root")
    pools = {"exclusive": ("1", {"0/1": ""}), "infra": ("0", {"0/2": ""})}
    tree(host.directory, pools)
    host.ok("init")
    (host.directory / "pools.old").rename(host.directory / "pools")
    done = host.run("init")
    assert "the old state is kept in" in done.stderr
    assert not (host.directory / "pools").exists()


def test_uninstall_removes_what_a_killed_write_has_left(host: Host) -> None:
    for name in (local.STATE, local.LAYOUT, JOURNAL):
        (host.directory / f".{name}.new").write_text("half")
    host.ok("uninstall")
    assert not host.directory.exists()


def test_readers_need_no_lock(host: Host) -> None:
    """An unprivileged user may read the pools, and cannot take the lock."""
    (host.directory / local.LOCK).unlink()
    assert json.loads(host.ok("describe"))["pools"]
    assert not (host.directory / local.LOCK).exists()
