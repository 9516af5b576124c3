"""What the service counts, in Prometheus' format."""

from typing import Any

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
    """One registry for each app, so that two in a process do not mix."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        here: Any = {"registry": self._registry, "namespace": "edgeprune"}
        self.requests = Counter(
            "requests", "Requests by path and status; 499 left early.", ["path", "status"], **here
        )
        self.seconds = Histogram(
            "request_seconds",
            "From a request's head to the answer's end.",
            ["path"],
            buckets=_SECONDS,
            **here,
        )
        self.running = Gauge("requests_running", "Requests being answered.", **here)
        self.waiting = Gauge("texts_waiting", "Texts in line for the model.", **here)
        self.batches = Histogram("batch_texts", "Texts in a call.", buckets=_TEXTS, **here)
        self.tokens = Counter("tokens", "Tokens read or written.", ["kind"], **here)

    def text(self) -> bytes:
        return generate_latest(self._registry)
