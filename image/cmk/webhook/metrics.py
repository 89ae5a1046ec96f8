"""The webhook's metrics, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
NAN = float("nan")


class Metrics:
    """The metrics of one server. The callables are asked at each scrape; ``certificate_end`` is in seconds since the epoch."""

    def __init__(
        self, certificate_end: Callable[[], float | None], is_newest: Callable[[], bool], failures: Callable[[], int]
    ) -> None:
        self._registry = CollectorRegistry()
        reviews = Counter(
            "cmk_webhook_reviews",
            "Reviews answered, by outcome: mutated, unchanged, refused, malformed.",
            ["outcome"],
            registry=self._registry,
        )
        self.reviews = {outcome: reviews.labels(outcome) for outcome in ("mutated", "unchanged", "refused", "malformed")}
        self.seconds = Histogram(
            "cmk_webhook_review_seconds",
            "Time spent on a review, without TLS and HTTP.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        gauge = Gauge(
            "cmk_webhook_certificate_not_after_timestamp_seconds",
            "When the certificate in use ends; NaN when it is not valid today.",
            registry=self._registry,
        )
        gauge.set_function(lambda: certificate_end() or NAN)
        newest = Gauge(
            "cmk_webhook_files_current",
            "1 when the newest files are in use, 0 when they cannot be used.",
            registry=self._registry,
        )
        newest.set_function(lambda: float(is_newest()))
        broken = Gauge("cmk_webhook_reload_failures", "How often changed files could not be used.", registry=self._registry)
        broken.set_function(lambda: float(failures()))

    def text(self) -> bytes:
        """The answer to a scrape."""
        return generate_latest(self._registry)
