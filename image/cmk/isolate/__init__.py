"""``cmk isolate`` in Python: imports builtin modules and its own."""
