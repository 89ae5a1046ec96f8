"""The kernel's side of one host: sysfs, procfs, CPU affinity, sockets' peers, and files that survive a kill.

Holds: one module per kernel interface or file. Every path lies under a root that tests replace.
Never here: a decision about who gets which CPUs, or a client of the API server.
Imported by: every package above it; never by ``cmk.model``, ``cmk.webhook`` or ``cmk.isolate``.
"""
