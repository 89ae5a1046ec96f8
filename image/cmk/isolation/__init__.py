"""The isolation layers, which keep everything but their owners off exclusive cores: other pods, host processes, slices and interrupts.

Holds: the layers behind one entry (``layers.Layers``), the originals that they are undone from, and the cgroups and interrupts that
they write, which no other package of cmk does.
Never here: which task holds which core (``cmk.model.ledger`` knows), or a write to the API server.
Imported by: ``cmk.agent``; ``cmk.legacy`` and ``cmk.fleet`` stand beside it.
"""
