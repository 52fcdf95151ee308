"""What ``/metrics`` says, in the text format of Prometheus."""

import collections
from collections.abc import Iterator

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
    """Counters of one service; used from one event loop."""

    def __init__(self) -> None:
        self.requests: collections.Counter[tuple[str, int]] = collections.Counter()
        self._buckets: collections.Counter[float] = collections.Counter()
        self._seconds, self._count = 0.0, 0

    def record(self, path: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self.requests[path, status] += 1
        self._buckets[next((bound for bound in SECONDS if seconds <= bound), float("inf"))] += 1
        self._seconds += seconds
        self._count += 1

    def text(self, *, batches: collections.Counter[int], waiting: int, programs: int) -> str:
        """Everything, as Prometheus reads it."""
        return "\n".join(self._lines(batches, waiting, programs)) + "\n"

    def _lines(self, batches: collections.Counter[int], waiting: int, programs: int) -> Iterator[str]:
        yield "# HELP diffrec_requests_total Requests by path and status."
        yield "# TYPE diffrec_requests_total counter"
        for (path, status), count in sorted(self.requests.items()):
            yield f'diffrec_requests_total{{path="{path}",status="{status}"}} {count}'
        yield "# HELP diffrec_request_seconds Time from the request's arrival to its answer."
        yield "# TYPE diffrec_request_seconds histogram"
        total = 0
        for bound in SECONDS:
            total += self._buckets[bound]
            yield f'diffrec_request_seconds_bucket{{le="{bound}"}} {total}'
        yield f'diffrec_request_seconds_bucket{{le="+Inf"}} {self._count}'
        yield f"diffrec_request_seconds_sum {self._seconds:.6f}"
        yield f"diffrec_request_seconds_count {self._count}"
        yield "# HELP diffrec_batch_size Requests that shared one call on the device."
        yield "# TYPE diffrec_batch_size histogram"
        for size in SIZES:
            yield f'diffrec_batch_size_bucket{{le="{size}"}} {sum(n for s, n in batches.items() if s <= size)}'
        yield f'diffrec_batch_size_bucket{{le="+Inf"}} {batches.total()}'
        yield f"diffrec_batch_size_sum {sum(size * n for size, n in batches.items())}"
        yield f"diffrec_batch_size_count {batches.total()}"
        yield "# HELP diffrec_waiting Requests that wait for the device now."
        yield "# TYPE diffrec_waiting gauge"
        yield f"diffrec_waiting {waiting}"
        yield "# HELP diffrec_programs Programs compiled so far; it stops growing soon after the start."
        yield "# TYPE diffrec_programs gauge"
        yield f"diffrec_programs {programs}"
