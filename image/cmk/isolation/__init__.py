"""Keeps all others off exclusive cores, by cpusets of pods, the host's processes, slices, interrupts and partitions. All can be undone.


Holds: the layers, what each found before its first write, and the cgroups, masks and interrupts that they write. Nothing else in cmk
writes those.
Never here: who holds which core (``cmk.model.ledger`` knows), or an API object.
Imported by: ``cmk.agent``; ``cmk.legacy`` and ``cmk.fleet`` stand beside it.
"""
