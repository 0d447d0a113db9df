"""Prometheus metrics; they contain no keys, URLs or texts."""

import contextlib
import os
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Prometheus metrics of one server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("convnext_keras_requests", "Answers", ["route", "status"], registry=registry)
        self.seconds = Histogram("convnext_keras_request_seconds", "Time to the answer", ["route"], registry=registry)
        self.sizes = Histogram(
            "convnext_keras_batch_size", "Items of a batch", ["tower"], buckets=SIZES, registry=registry
        )
        self.batch_wait = Histogram(
            "convnext_keras_batch_wait_seconds", "Wait of a batch's first item", ["tower"], registry=registry
        )
        self.batch_duration = Histogram(
            "convnext_keras_batch_seconds", "Time of the model", ["tower"], registry=registry
        )
        self.stages = Histogram("convnext_keras_stage_seconds", "Time before the model", ["stage"], registry=registry)
        self.images = Counter("convnext_keras_images", "Images by outcome", ["outcome"], registry=registry)
        self.labels = Counter(
            "convnext_keras_label_cache", "Sets of labels by whether they were kept", ["kept"], registry=registry
        )
        self.queue_size = Gauge("convnext_keras_queued", "Items that wait", ["tower"], registry=registry)
        self.memory = Gauge("convnext_keras_memory_bytes", "Resident memory of the process", registry=registry)
        self.memory.set_function(resident_memory)
        Gauge("convnext_keras_start_time_seconds", "Start, in Unix time", registry=registry).set(time.time())

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts an answer and its time."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def batch(self, tower: str, size: int, wait: float, duration: float) -> None:
        """Counts a run of a tower: its size, how long its first item waited, and how long it took."""
        self.sizes.labels(tower).observe(size)
        self.batch_wait.labels(tower).observe(wait)
        self.batch_duration.labels(tower).observe(duration)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures what is done before the model sees an item."""
        with self.stages.labels(name).time():
            yield

    def image(self, outcome: str) -> None:
        """Counts an image by its outcome: `ok`, or the code of its error."""
        self.images.labels(outcome).inc()

    def label_cache(self, kept: bool) -> None:
        """Counts a set of labels by whether its vectors were kept from an earlier request."""
        self.labels.labels(str(kept).lower()).inc()

    def text(self) -> bytes:
        """Returns all metrics in the form that Prometheus reads."""
        return generate_latest(self.registry)


def resident_memory() -> float:
    """Returns the resident memory of the process in bytes; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123 - not a file
            return float(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0.0
