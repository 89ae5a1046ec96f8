"""Pools of one host without cluster or agent, which an administrator's commands create and change under a lock.

Holds: the file of pools and tasks as commands read and write it. ``cmk.isolate.local`` allocates in the same file, with
extension modules alone; its lock and the names of its files are used here.
Never here: anything of Kubernetes.
Imported by: ``cmk.cli`` alone.
"""
