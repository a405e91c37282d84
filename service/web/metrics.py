"""What the service counts of itself, in the text format of Prometheus."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from anyio import CapacityLimiter
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from service.schemas.search import SPACES

Question = TypeVar("Question")
Answer = TypeVar("Answer")

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
TOGETHER = (1, 2, 4, 8, 16, 32, 64)
# Whatever a client sends, these are all the values that `method` has.
METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
OTHER = "other"

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, of when it began


class Metrics:
    """Counted since the start. No label has values that a client can make up."""

    def __init__(self, versions: Mapping[str, str]) -> None:
        """`versions`: of what the service runs on, by names that a label can have."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        own: dict[str, Any] = {"namespace": "hebbsearch", "registry": self.registry}
        self._requests = Counter(
            "requests", "Requests that were answered.", ["method", "route", "status"], **own
        )
        self._seconds = Histogram(
            "request_seconds", "From a request to its answer.", ["route"], buckets=SECONDS, **own
        )
        self.searches = Counter(
            "searches",
            "Queries that were ranked, by what they were and in which space.",
            ["by", "space"],
            **own,
        )
        self._together = Histogram(
            "batch_size", "Images that were encoded and ranked together.", buckets=TOGETHER, **own
        )
        self.images = Counter("images", "Images by what became of them.", ["outcome"], **own)
        for outcome in ("added", "exists", "refused", "trashed", "restored", "removed"):
            self.images.labels(outcome)  # 0 is a value too
        for what in ("image", "code"):
            for space in SPACES:
                self.searches.labels(what, space)
        Info("build", "What the service runs on.", **own).info(dict(versions))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method if method in METHODS else OTHER, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def counting(
        self, answer: Callable[[Sequence[Question]], Sequence[Answer]]
    ) -> Callable[[Sequence[Question]], Sequence[Answer]]:
        """`answer`, with its questions counted."""

        def counted(questions: Sequence[Question]) -> Sequence[Answer]:
            self._together.observe(len(questions))
            self.searches.labels("image", "content").inc(len(questions))
            return answer(questions)

        return counted

    def text(
        self,
        *,
        items: int,
        recall: float | None,
        artifact: Mapping[str, str],
        places: Mapping[str, CapacityLimiter],
    ) -> bytes:
        """Everything that was counted, and how it is at this moment."""
        now = CollectorRegistry()
        own: dict[str, Any] = {"namespace": "hebbsearch", "registry": now}
        Gauge("items", "Images that can be found.", **own).set(items)
        if recall is not None:
            Gauge("recall", "Share of the ten nearest images that searches find.", **own).set(recall)
        Info("artifact", "What is served.", **own).info(dict(artifact))
        taken = Gauge("places_taken", "Requests, or images, under way or waiting.", ["of"], **own)
        there = Gauge("places", "As many as there may be; more are refused or wait.", ["of"], **own)
        for name, limiter in places.items():
            taken.labels(name).set(limiter.borrowed_tokens)
            there.labels(name).set(limiter.total_tokens)
        return generate_latest(self.registry) + generate_latest(now)
