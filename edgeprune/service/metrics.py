"""The service's metrics, in Prometheus' format."""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TEXTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """One registry per app, so that two in a process stay separate."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "edgeprune_requests",
            "Requests by path and status; 499: the client left.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "edgeprune_request_seconds",
            "From a request's head to the end of its answer.",
            ["path"],
            registry=registry,
            buckets=_SECONDS,
        )
        self.faults = Counter(
            "edgeprune_model_faults", "Answers with NaN or infinity.", registry=registry
        )
        self.running = Gauge(
            "edgeprune_requests_running", "Requests being answered.", registry=registry
        )
        self.waiting = Gauge(
            "edgeprune_texts_waiting", "Texts queued for the model.", registry=registry
        )
        self.batches = Histogram(
            "edgeprune_batch_texts", "Texts in a call.", registry=registry, buckets=_TEXTS
        )
        self.tokens = Counter(
            "edgeprune_tokens", "Tokens read or written.", ["kind"], registry=registry
        )

    def text(self) -> bytes:
        return generate_latest(self._registry)
