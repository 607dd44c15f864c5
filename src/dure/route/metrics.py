"""What a router counts: requests, decisions, how good predictions were, money, and who is up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from dure.http.access_log import RequestRecord
from dure.http.metrics import MetricsPage, RequestMetrics, counted, gauge
from dure.route.router import Router

__all__ = ["RouterMetrics"]


class RouterMetrics:
    """The figures of a router."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._requests = RequestMetrics()
        self._decisions: Counter[tuple[str, ...]] = Counter()
        self._page = MetricsPage(self)

    def observe_http(self, record: RequestRecord) -> None:
        """Count a request that has ended."""
        self._requests.observe(record)
        if target := record.extra.get("route_target"):
            self._decisions[str(target), str(record.extra.get("route_reason", ""))] += 1

    def text(self) -> bytes:
        """Return all figures as Prometheus reads them."""
        return self._page.text()

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, as prometheus_client asks for them."""
        yield from self._requests.collect()
        text = "Requests by who answered them and why"
        yield counted("dure_route_requests", text, ("target", "reason"), self._decisions)
        live = self._router.upstreams.values()
        yield gauge(
            "dure_requests_running", "Requests being answered", sum(len(x.places) for x in live)
        )
        up = GaugeMetricFamily("dure_route_up", "Whether an upstream is up", labels=("target",))
        usd = GaugeMetricFamily("dure_route_spent_usd", "Dollars spent today", labels=("target",))
        for one in live:
            up.add_metric((one.name,), float(one.health.status == "up"))
            usd.add_metric((one.name,), self._router.spent_today(one.name))
        yield from (up, usd)
