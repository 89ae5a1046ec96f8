"""The admission webhook: it adds to a pod that requests cores what its containers need to use them.

Holds: the review of a pod, bytes to bytes (``review``, ``mutate``, ``draft``, ``merge``, ``rules``: pure), and the server around it.
Never here: a client of the API server or a token. Anybody who reaches the port can send it a review.
Imported by: ``cmk.cli`` alone.
"""
