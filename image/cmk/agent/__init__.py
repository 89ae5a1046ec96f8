"""The agent of one node: an event loop that serves ``cmk isolate``, changes the node's pools and publishes its report.

Holds: the agent's state while it runs, its sockets, and the order in which things happen. The agent is the only writer of a node's state
files.
Never here: rules of allocation and layout (``cmk.model``), how the kernel or the API server is spoken to (``cmk.host``, ``cmk.kube``).
Imported by: ``cmk.cli`` alone.
"""
