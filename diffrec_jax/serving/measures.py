"""What ``/metrics`` says, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
    """Counters of one service, apart from those of any other in the process."""

    def __init__(self) -> None:
        self._registry = of = CollectorRegistry()
        self._requests = Counter(
            "diffrec_requests", "Requests by path and status.", labelnames=("path", "status"), registry=of
        )
        self._seconds = Histogram(
            "diffrec_request_seconds", "Time from the request's arrival to its answer.", buckets=SECONDS, registry=of
        )
        self._sizes = Histogram(
            "diffrec_batch_size", "Requests that shared one call on the device.", buckets=SIZES, registry=of
        )
        self._waiting = Gauge("diffrec_waiting", "Requests that wait for the device now.", registry=of)
        self._programs = Gauge(
            "diffrec_programs", "Programs compiled so far; it stops growing soon after the start.", registry=of
        )

    def record(self, path: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self._requests.labels(path, status).inc()
        self._seconds.observe(seconds)

    def batch(self, size: int) -> None:
        """So many requests went to the device in one call."""
        self._sizes.observe(size)

    def text(self, *, waiting: int, programs: int) -> bytes:
        """Everything, as Prometheus reads it."""
        self._waiting.set(waiting)
        self._programs.set(programs)
        return generate_latest(self._registry)
