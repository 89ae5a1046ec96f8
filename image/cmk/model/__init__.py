"""The rules, pure: CPU sets, topology, pools, the ledger of tasks and their lists, plans of changes, and data that packages exchange.

Holds: functions of their arguments and frozen structs.
Never here: a file, a clock, a process or a client; import-linter forbids the modules for it.
Imported by: everybody; it imports no other package of cmk.
"""
