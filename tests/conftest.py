"""For all tests."""

import ctypes
import signal

import pytest
from hypothesis import HealthCheck, settings

# Helpers that assert something say as much as tests when it does not hold.
pytest.register_assert_rewrite("tests.guest.isolation")

# How long an example takes says something about the machine and its other users, nothing about cmk.
settings.register_profile("cmk", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cmk")


_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def pytest_configure(config: pytest.Config) -> None:
    """Make signals and orphans the test's own.

    A background job of a shell ignores SIGINT, one of nohup SIGHUP, and so would everything that it starts, which no shell can undo.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # still ignored here, but not inherited
    if hasattr(config, "workerinput"):
        # One of several that run tests side by side: an orphan of another's, come to init, may be its own test's for all the kernel tells.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say the seed also where -q leaves out the header that has it: without it an order that fails cannot be had again."""
    seed, reporter = session.config.getoption("randomly_seed", None), session.config.pluginmanager.get_plugin("terminalreporter")
    if seed is not None and reporter and not reporter.showheader:
        reporter.write_line(f"Using --randomly-seed={seed}")
