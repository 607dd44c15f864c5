"""What a router's /metrics has, and what docs/metrics.md says of it."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from dure.route.learning import Learned
from dure.route.metrics import RouterMetrics
from dure.route.router import Router
from dure.route.upstream import RouteRules, Upstream

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_every_figure_of_a_router_is_explained() -> None:
    """docs/metrics.md names its figures with their types, and none that it does not write."""
    rules = RouteRules(upstreams=(Upstream(name="board", url="http://127.0.0.1:9"),))
    text = RouterMetrics(Router(rules, Learned())).text().decode()
    written = set(re.findall(r"^# TYPE (dure_route_\S+) (\w+)$", text, re.MULTILINE))
    told = set(re.findall(r"^\| `(dure_route_[^`]+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE))
    assert written == told
    assert len(written) == 5


def test_ceilings_of_a_day_are_told_where_one_is_set() -> None:
    """One upstream's own, and that of all of them under a name that no upstream can have."""
    pod = Upstream(name="pod", url="http://127.0.0.1:9", kind="pod", daily_usd=2.0)
    board = Upstream(name="board", url="http://127.0.0.1:9")
    for rules, limits in (
        (RouteRules(upstreams=(board,)), {}),
        (RouteRules(upstreams=(board, pod)), {"pod": 2.0}),
        (RouteRules(upstreams=(board, pod), daily_usd=3.0), {"pod": 2.0, "(all)": 3.0}),
    ):
        text = RouterMetrics(Router(rules, Learned())).text().decode()
        told = {
            sample.labels["target"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "dure_route_limit_usd"
        }
        assert told == limits
