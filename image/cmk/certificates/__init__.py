"""The webhook's certificate: how it is issued, checked, installed by the chart's hooks and renewed between upgrades.

Holds: the certificates themselves (``pki``, pure), the Secret and the ``caBundle`` (``install``), the loop that restores and renews both
(``keeper``).
Never here: how the webhook serves a certificate (``cmk.webhook.tls``): the process that answers reviews holds no token and imports nothing
of this package.
Imported by: ``cmk.cli`` alone.
"""
