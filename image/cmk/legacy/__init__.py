"""The take-over from Intel CMK up to 1.5 and kcm: the signs that they still run, and their state read as pools and tasks of cmk.

Holds: their formats and their names.
Never here: a format of ours. Delete this package and cmk loses the take-over, and nothing else.
Imported by: ``cmk.agent`` and ``cmk.cli``.
"""
