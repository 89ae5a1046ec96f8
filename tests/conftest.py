"""For all tests."""

import pytest
from hypothesis import settings

# Helpers that assert something say as much as tests when it does not hold.
pytest.register_assert_rewrite("tests.guest.isolation")

# How long an example takes says something about the machine and its other users, nothing about cmk.
settings.register_profile("cmk", deadline=None)
settings.load_profile("cmk")
