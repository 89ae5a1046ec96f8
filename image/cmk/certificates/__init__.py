"""The webhook's certificate: made, judged, put in place by the chart's hooks, and renewed in between.


Holds: the certificates themselves (``pki``, pure), the Secret and the ``caBundle`` (``install``), the loop that looks after both
(``keeper``).
Never here: how the webhook serves a certificate (``cmk.webhook.tls``): the process that strangers reach holds no token and imports none
of this.
Imported by: ``cmk.cli`` alone.
"""
