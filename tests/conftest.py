"""For all tests."""

from hypothesis import settings

# How long an example takes says something about the machine and its other users, nothing about cmk.
settings.register_profile("cmk", deadline=None)
settings.load_profile("cmk")
