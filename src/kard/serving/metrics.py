"""What the server counts, in Prometheus's text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """Counters of one server; every server has its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("kard_requests", "Requests answered", ["path", "status"], registry=self.registry)
        self.latency = Histogram(
            "kard_request_seconds", "Time to the end of a reply", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self.refused = Counter("kard_refused", "Requests refused because the queue was full", registry=self.registry)
        self.queue = Gauge("kard_queue", "Requests that wait", registry=self.registry)
        self.batches = Histogram(
            "kard_batch_size", "Questions answered together", buckets=(1, 2, 4, 8, 16, 32, 64), registry=self.registry
        )
        self.busy = Counter("kard_busy_seconds", "Time that batches took", registry=self.registry)
        self.steps = Histogram(
            "kard_step_seconds", "Time of a question's steps", ["step"], buckets=_SECONDS, registry=self.registry
        )
        self.tokens = Counter("kard_tokens", "Tokens read and written", ["kind"], registry=self.registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self.requests.labels(path, str(status)).inc()
        self.latency.labels(path).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        """Count a finished batch."""
        self.batches.observe(size)
        self.busy.inc(seconds)

    def answered(self, milliseconds: Mapping[str, float], tokens: Sequence[int]) -> None:
        """Count an answered question: time of its steps, tokens read and written."""
        for step, time in milliseconds.items():
            self.steps.labels(step).observe(time / 1000)
        for kind, count in zip(("read", "written"), tokens, strict=True):
            self.tokens.labels(kind).inc(count)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)
