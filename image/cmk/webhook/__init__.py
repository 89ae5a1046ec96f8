"""The admission webhook: gives a pod that asks for cores what it needs to use them.


Holds: the review of a pod, bytes to bytes (``review``, ``mutate``, ``draft``, ``merge``, ``rules``: pure), and the server around it.
Never here: a client of the API server or a token. It reads what strangers send.
Imported by: ``cmk.cli`` alone.
"""
