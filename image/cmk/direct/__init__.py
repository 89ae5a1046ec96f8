"""Pools of one host without cluster or agent: made and changed under a lock, by commands of an administrator.


Holds: the file of pools and tasks as commands read and write it. ``cmk.isolate.local`` allocates in the same file, with builtin modules
only.
Never here: anything of Kubernetes.
Imported by: ``cmk.cli`` alone.
"""
