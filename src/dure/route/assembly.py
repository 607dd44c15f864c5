"""Puts a router together and runs it: upstreams, what was learned of them, the proxy, its guards.

Knows which part needs which. Refuses to know where rules and settings come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dure.http.server import serve
from dure.http.settings import ServerSettings
from dure.route.decision_log import DecisionLog
from dure.route.learned_file import read_learned, write_learned
from dure.route.metrics import RouterMetrics
from dure.route.proxy import Proxy
from dure.route.router import Router
from dure.route.starting import Starter, Wake
from dure.route.upstream import RouteRules
from dure.route.watching import watching

__all__ = ["LEARNED", "LOG", "RouterPlan", "run_router"]

LEARNED, LOG = "learned.json", "log.jsonl"  # in the router's directory
_KEEP_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class RouterPlan:
    """What a router is made of.

    directory: where its log and what it has learned are kept. starters: what starts an upstream that is
    off, by name; machines that are woken need none.
    """

    rules: RouteRules
    settings: ServerSettings
    directory: Path
    starters: Mapping[str, Starter] = field(default_factory=dict)


def run_router(
    plan: RouterPlan,
    *,
    announce: Callable[[str], None] = lambda _: None,
    stopping: Callable[[], None] = lambda: None,
) -> int:
    """Route until a signal comes, and return the exit code. Raises the DureError that prevents it.

    announce: gets the URL once it answers; stopping: is called when the router begins to end.
    """
    learned_file = plan.directory / LEARNED
    waking = {one.name: Wake() for one in plan.rules.upstreams if one.wake}
    router = Router(plan.rules, read_learned(learned_file), {**waking, **plan.starters})
    with DecisionLog(plan.directory / LOG) as log:
        try:
            return serve(
                Proxy(router, log),
                plan.settings,
                RouterMetrics(router),
                model="route",
                around=_around(router, learned_file),
                announce=announce,
                stopping=stopping,
            )
        finally:
            write_learned(learned_file, router.learned)


@asynccontextmanager
async def _around(router: Router, learned_file: Path) -> AsyncIterator[None]:
    keeping = asyncio.create_task(_keep(router, learned_file))
    try:
        async with watching(list(router.upstreams.values())):
            yield
    finally:
        keeping.cancel()


async def _keep(router: Router, learned_file: Path) -> None:
    while True:
        await asyncio.sleep(_KEEP_EVERY_S)
        await asyncio.to_thread(write_learned, learned_file, router.learned)
