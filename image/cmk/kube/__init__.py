"""The API server, through a thin layer over the kubernetes client: raw JSON in and out, a module per kind of object. And kubelet's socket.

Holds: requests, watches, patches and their errors.
Never here: a decision about nodes or pods, or a file of the host.
Imported by: every package above it but ``cmk.direct``; never by ``cmk.webhook``.
"""
