"""What every HTTP server counts, and the page of all figures as Prometheus reads it.

Knows requests, the process, and how a figure is written. Refuses to know engines and models: who serves
one adds a collector of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dure.http.access_log import RequestRecord

__all__ = [
    "CONTENT_TYPE",
    "MAX_OWNERS",
    "OTHERS",
    "REQUEST_S",
    "Histogram",
    "Labels",
    "MetricsPage",
    "RequestFigures",
    "RequestMetrics",
    "ServerMetrics",
    "counted",
    "counter",
    "gauge",
    "histogram",
]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST_S = (
    *(0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60),
    *(120, 240, 480, 960, 1920, 7680),
)
"""The bounds of a histogram of requests' lengths, in seconds."""

_ENDLESS = frozenset({"/page/feed"})  # last for as long as somebody looks
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
MAX_OWNERS = 200  # names of keys that were ever used; the rest are counted together
OTHERS = "(others)"

Labels = Mapping[str, str]


class ServerMetrics(Protocol):
    """What a server asks of the figures it serves."""

    def observe_http(self, record: RequestRecord) -> None:
        """Count a request that has ended."""

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""


class Histogram:
    """Counts observations up to each bound, and sums them. An observation takes half a µs."""

    __slots__ = ("_bounds", "_counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """The number of values observed."""
        return sum(self._counts)

    def buckets(self) -> Iterator[tuple[str, float]]:
        """Yield each bound and the number of values up to it; the last bound is +Inf."""
        below = 0
        names = [*(repr(float(bound)) for bound in self._bounds), "+Inf"]
        for name, count in zip(names, self._counts, strict=True):
            below += count
            yield name, below


class RequestMetrics:
    """Counts HTTP requests by route, method, status and key. Used from one thread."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str, str]] = Counter()
        self._seconds = Histogram(REQUEST_S)
        self._n_hung_up = 0
        self._owners: set[str] = set()
        self._ignored: Counter[str] = Counter()

    def observe(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        if len(self._owners) < MAX_OWNERS:
            self._owners.add(record.owner)
        owner = record.owner if record.owner in self._owners else OTHERS
        method = record.method if record.method in _METHODS else "(other)"
        self._requests[record.route or "(none)", method, str(record.status), owner] += 1
        if record.path not in _ENDLESS:
            self._seconds.observe(record.duration_s)
        self._n_hung_up += record.hung_up
        self._ignored.update(record.ignored)

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, as prometheus_client asks for them."""
        names = ("path", "method", "status", "key")
        yield counted("dure_http_requests", "HTTP requests that ended", names, self._requests)
        yield histogram("dure_http_request_seconds", "HTTP requests' length", self._seconds)
        text = "Fields of requests that had no effect"
        yield counted("dure_ignored_fields", text, ("field",), self._ignored)
        yield counter("dure_http_hung_up", "Clients that left before the end", self._n_hung_up)


class MetricsPage:
    """Writes the process' figures and those of a collector."""

    def __init__(self, collector: Collector) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(collector)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return generate_latest(self._registry)


def gauge(name: str, text: str, value: float, labels: Labels | None = None) -> Metric:
    """Return a gauge with one value."""
    family = GaugeMetricFamily(name, text, labels=tuple(labels or ()))
    family.add_metric(tuple((labels or {}).values()), value)
    return family


def counter(name: str, text: str, value: float, labels: Labels | None = None) -> Metric:
    """Return a counter with one value; prometheus_client adds `_total` to its name."""
    family = CounterMetricFamily(name, text, labels=tuple(labels or ()))
    family.add_metric(tuple((labels or {}).values()), value)
    return family


def counted(
    name: str,
    text: str,
    names: Sequence[str],
    counts: Mapping[str, int] | Mapping[tuple[str, ...], int] | Counter[tuple[str, str, str, str]],
    labels: Labels | None = None,
) -> Metric:
    """Return a counter with one value for each combination of the labels `names`."""
    family = CounterMetricFamily(name, text, labels=(*names, *(labels or ())))
    for values, count in counts.items():
        own = (values,) if isinstance(values, str) else values
        family.add_metric((*own, *(labels or {}).values()), count)
    return family


def histogram(name: str, text: str, values: Histogram, labels: Labels | None = None) -> Metric:
    """Return the figures of a histogram."""
    family = HistogramMetricFamily(name, text, labels=tuple(labels or ()))
    buckets = list(values.buckets())
    family.add_metric(tuple((labels or {}).values()), buckets=buckets, sum_value=values.total)
    return family


class RequestFigures:
    """The figures of a server that has no others than those of its requests."""

    def __init__(self) -> None:
        self._requests = RequestMetrics()
        self._page = MetricsPage(self._requests)

    def observe_http(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        self._requests.observe(record)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return self._page.text()
