"""What a server counts and measures, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "utuning_requests", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "utuning_request_seconds", "Seconds from a request's head to its answer", ["route"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.images = Counter("utuning_images", "Images that were answered for", registry=registry)
        self.predictions = Counter(
            "utuning_predictions", "Predictions by tuner, version and alias", ["tuner", "version", "alias"],
            registry=registry,
        )  # fmt: skip
        self.batch_rows = Histogram("utuning_batch_rows", "Rows of a batch", buckets=ROWS, registry=registry)
        self.batch_seconds = Histogram(
            "utuning_batch_seconds", "Seconds that a batch ran", buckets=SECONDS, registry=registry
        )
        self.errors = Counter("utuning_errors", "Requests without an answer, by kind", ["kind"], registry=registry)
        self.reloads = Counter(
            "utuning_reloads", "Reloads after an alias moved, by outcome", ["tuner", "outcome"], registry=registry
        )

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """Add a number that is read whenever somebody asks."""
        Gauge(f"utuning_{name}", what, registry=self._registry).set_function(read)

    def ran(self, rows: int, seconds: float) -> None:
        """Note a batch."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)
