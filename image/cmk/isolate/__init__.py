"""``cmk isolate`` in Python, for images with Python and hosts without the static launcher; file by file the same as ``image/launcher``.

Holds: the command line of a workload, the request to the agent, direct mode's allocation in ``pools.json``, and the start of the workload.
Never here: an import that is not builtin, this package's or ``cmk.model.choice`` (the rules of allocation, which imports nothing): a start
of ``cmk isolate`` takes milliseconds for that reason.
Imported by: ``cmk.__main__``, ``cmk.cli`` and ``cmk.direct``.
"""
