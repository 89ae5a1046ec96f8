"""Whatever knows Intel CMK up to 1.5 and kcm: signs that they still run, their directory tree, and what they left read as pools of ours.


Holds: their formats and their names.
Never here: a format of ours. Delete this package and cmk loses the take-over, and nothing else.
Imported by: ``cmk.agent`` and ``cmk.cli``.
"""
