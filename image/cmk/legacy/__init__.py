"""The take-over from Intel CMK up to 1.5 and kcm: the signs that they still run, and their state read as pools and tasks of cmk.

Holds: their formats and their names.
Never here: a format of ours. Nothing but the take-over depends on this package.
Imported by: ``cmk.agent``, ``cmk.direct`` and ``cmk.cli``.
"""
