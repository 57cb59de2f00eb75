"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from bidiffsr.server.job import Job
from bidiffsr.server.jobs import JobQueue

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)


class Metrics:
    """Counts for one server; two in one process do not meet."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._ended = Counter(
            *("bidiffsr_jobs", "Jobs that have ended, by how."), ["state"], registry=self._registry
        )
        self._refused = Counter(
            *("bidiffsr_refused_requests", "Requests that were refused, by HTTP status."),
            ["status"],
            registry=self._registry,
        )
        self._pixels = Counter(
            *("bidiffsr_result_pixels", "Pixels of results."), registry=self._registry
        )
        self._seconds = Histogram(
            *("bidiffsr_job_seconds", "How long jobs that are done have run."),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def watch(self, queue: JobQueue) -> None:
        """Tell of a queue, too."""
        for name, text, value in (
            ("waiting_jobs", "Jobs that wait.", lambda: queue.waiting),
            ("running_jobs", "Jobs that run.", lambda: queue.running),
            ("held_bytes", "Bytes of uploads, previews and results.", lambda: queue.held),
        ):
            gauge = Gauge(f"bidiffsr_{name}", text, registry=self._registry)
            gauge.set_function(value)

    def count_job(self, job: Job) -> None:
        """A job has ended."""
        self._ended.labels(job.state).inc()
        if job.state == "done":
            self._seconds.observe(job.seconds)
            self._pixels.inc(sum(result.width * result.height for result in job.results))

    def count_refusal(self, status: int) -> None:
        """A request was refused."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self._registry)
