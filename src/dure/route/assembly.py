"""Puts a router together and runs it: upstreams, what was learned of them, the proxy, its guards.

Knows which part needs which. Refuses to know where rules and settings come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dure.http.server import Served, serve
from dure.http.settings import ServerSettings
from dure.route.decision_log import DecisionLog
from dure.route.here import Here
from dure.route.learned_file import read_learned, write_learned
from dure.route.metrics import RouterMetrics, ServedAndRouted
from dure.route.proxy import Proxy
from dure.route.rented import reaching
from dure.route.router import Router
from dure.route.starting import Starter, Wake
from dure.route.upstream import RouteRules
from dure.route.watching import watching

__all__ = ["LEARNED", "LOG", "RouterPlan", "routed", "run_router"]

LEARNED, LOG = "learned.json", "log.jsonl"  # in the router's directory
_KEEP_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class RouterPlan:
    """What a router is made of.

    directory: where its log and what it has learned are kept. starters: what starts an upstream that is
    off, by name; machines that are woken need none.
    """

    rules: RouteRules
    directory: Path
    starters: Mapping[str, Starter] = field(default_factory=dict)


def run_router(
    plan: RouterPlan,
    settings: ServerSettings,
    *,
    announce: Callable[[str], None] = lambda _: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Route until a signal comes, and return the exit code. Raises the DureError that prevents it.

    announce: gets the URL once it answers; stopping: is called when the router begins to end.
    """
    with routed(plan) as served:
        return serve(served, settings, model="route", announce=announce, stopping=stopping)


@contextmanager
def routed(plan: RouterPlan, own: Served | None = None) -> Iterator[Served]:
    """Yield a router, to be served within the block; what it has learned is kept at the end.

    own: what `dure serve` serves itself, which is one of the upstreams, and answers what is not routed.
    Raises the DureError that prevents it.
    """
    learned_file = plan.directory / LEARNED
    waking = {one.name: Wake() for one in plan.rules.upstreams if one.wake}
    starters = {**waking, **plan.starters}
    router = Router(
        plan.rules,
        read_learned(learned_file),
        starters,
        Here(own.app) if own else None,
    )
    with DecisionLog(plan.directory / LOG) as log:
        try:
            yield Served(
                Proxy(router, log, own.app if own else None),
                ServedAndRouted(own.metrics, router) if own else RouterMetrics(router),
                _around(router, learned_file, starters, own),
            )
        finally:
            write_learned(learned_file, router.learned)


@asynccontextmanager
async def _around(
    router: Router, learned_file: Path, starters: Mapping[str, Starter], own: Served | None
) -> AsyncIterator[None]:
    if own is not None:
        async with own.around, _around(router, learned_file, starters, None):
            yield
        return
    keeping = asyncio.create_task(_keep(router, learned_file))
    try:
        async with reaching(router, starters), watching(list(router.upstreams.values())):
            yield
    finally:
        keeping.cancel()


async def _keep(router: Router, learned_file: Path) -> None:
    while True:
        await asyncio.sleep(_KEEP_EVERY_S)
        await asyncio.to_thread(write_learned, learned_file, router.learned)
