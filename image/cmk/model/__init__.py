"""The rules, pure: CPU sets, topology, pools, the ledger of who holds what, plans of changes, and the data that packages exchange.


Holds: functions of their arguments and frozen structs.
Never here: a file, a clock, a process or a client; import-linter forbids the modules for it.
Imported by: everybody; it imports no other package of cmk.
"""
