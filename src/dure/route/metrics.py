"""What a router counts: requests, decisions, money, and who is up."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dure.http.access_log import RequestRecord
from dure.http.metrics import MetricsPage, RequestMetrics, ServerMetrics, counted, gauge
from dure.places import pods_directory
from dure.pods.metrics import pod_metrics
from dure.route.live_upstream import LiveUpstream
from dure.route.router import Router

__all__ = ["RouteFigures", "RouterMetrics", "ServedAndRouted"]

ALL = "(all)"  # no name of an upstream


class RouteFigures(Collector):
    """The figures of routing alone."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._decisions: Counter[tuple[str, ...]] = Counter()

    def observe(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        if target := record.extra.get("route_target"):
            self._decisions[str(target), str(record.extra.get("route_reason", ""))] += 1

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, as prometheus_client asks for them."""
        text = "Requests by who answered them and why"
        yield counted("dure_route_requests", text, ("target", "reason"), self._decisions)
        up = GaugeMetricFamily("dure_route_up", "Whether an upstream is up", labels=("target",))
        asleep = GaugeMetricFamily(
            "dure_route_asleep", "Not expected to answer", labels=("target",)
        )
        usd = GaugeMetricFamily("dure_route_spent_usd", "Dollars spent today", labels=("target",))
        limit = GaugeMetricFamily("dure_route_limit_usd", "Dollars of a day", labels=("target",))
        for one in self._router.upstreams.values():
            up.add_metric((one.name,), float(one.health.status == "up"))
            asleep.add_metric((one.name,), float(_is_asleep(one)))
            usd.add_metric((one.name,), self._router.spent_today(one.name))
            if one.upstream.daily_usd is not None:
                limit.add_metric((one.name,), one.upstream.daily_usd)
        if self._router.rules.daily_usd is not None:
            limit.add_metric((ALL,), self._router.rules.daily_usd)
        yield from (up, asleep, usd, limit)


def _is_asleep(one: LiveUpstream) -> bool:
    """Return whether nobody expects it to answer: it is woken or started, or its pod is gone."""
    return one.state(time.monotonic()) == "asleep" or one.way in {"stopped", "out"}


class RouterMetrics(Collector):
    """The figures of a router that serves no model itself."""

    def __init__(self, router: Router) -> None:
        self._router, self._figures = router, RouteFigures(router)
        self._requests = RequestMetrics()
        self._page = MetricsPage(self)

    def observe_http(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        self._requests.observe(record)
        self._figures.observe(record)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return self._page.text()

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, as prometheus_client asks for them."""
        yield from self._requests.collect()
        running = sum(len(one.places) for one in self._router.upstreams.values())
        yield gauge("dure_requests_running", "Requests being answered", running)
        yield from self._figures.collect()
        yield from pod_metrics(pods_directory())


class ServedAndRouted:
    """The figures of a server that routes too: its own, then those of routing."""

    def __init__(self, served: ServerMetrics, router: Router) -> None:
        self._served, self._figures = served, RouteFigures(router)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._figures)

    def observe_http(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        self._served.observe_http(record)
        self._figures.observe(record)

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return self._served.text() + generate_latest(self._registry)
