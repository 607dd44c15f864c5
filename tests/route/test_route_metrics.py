"""What a router's /metrics has, and what docs/metrics.md says of it."""

from __future__ import annotations

import re
from pathlib import Path

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
    assert len(written) == 3
