"""What a server counts, for Prometheus; in a registry of its own, so that two servers in one process do not mix."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "cir_requests", "Requests by route, method and status.", ("route", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "cir_request_seconds", "Time until a response was sent.", ("route",), buckets=_SECONDS, registry=registry
        )
        self.batch = Histogram(
            "cir_batch_queries", "Queries answered together.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.batch_seconds = Histogram(
            "cir_batch_seconds", "Time to answer a batch.", buckets=_SECONDS, registry=registry
        )
        self.waited = Histogram(
            "cir_wait_seconds", "Time that a query waited for its batch.", buckets=_SECONDS, registry=registry
        )
        self.cancelled = Counter("cir_cancelled", "Queries whose client had gone before they began.", registry=registry)
        self.partial = Counter(
            "cir_partial_answers", "Answers that did not cover the whole gallery.", registry=registry
        )
        self.refused = Counter("cir_refused", "Requests refused before any work.", ("reason",), registry=registry)
        self.thumbnails = Counter(
            "cir_thumbnails", "Thumbnails by where they came from.", ("source",), registry=registry
        )
        self._waiting = Gauge("cir_waiting_queries", "Queries in the queue.", registry=registry)
        self._generation = Gauge("cir_generation", "Generation of the index that answers.", registry=registry)
        self._images = Gauge("cir_images", "Images of that generation.", registry=registry)

    def watch(self, waiting: Callable[[], int], generation: Callable[[], int], images: Callable[[], int]) -> None:
        """What is read whenever the counters are."""
        self._waiting.set_function(waiting)
        self._generation.set_function(generation)
        self._images.set_function(images)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)
