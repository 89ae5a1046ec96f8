"""All nodes of a cluster at once: what a configuration would do to each (``cmk plan`` and its hook), and how far each has come (verify).

Holds: previews and progress, computed from NodeReports (``preview``, ``rollout``: pure), and the reading of all nodes page by page.
Never here: a write to the API server, or anything that only one node's agent knows.
Imported by: ``cmk.cli`` alone.
"""
