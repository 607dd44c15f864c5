"""Keeps the way to a rented pod open while a router runs, and starts the pod when a request is worth it.

Knows asyncio, and nothing of providers: `PodWay` is asked in a thread of its own, since its calls block.
A pod that idles is its guard's matter, so none is stopped here, and none is started but for a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import msgspec

from dure.pods.ledger import Entry
from dure.pods.money import Money
from dure.pods.way import OpenAccount, PodWay, Standing
from dure.route.live_upstream import LiveUpstream
from dure.route.router import Router
from dure.route.upstream import RouteRules, Upstream
from dure.route.watching import look

__all__ = ["RentedPod", "reaching", "rented_pods", "with_prices"]

T = TypeVar("T")

_STEP_S = 0.5  # a tunnel that has ended is noticed after
_LOOK_S = 30.0  # between questions after a pod that is not reached
_BEAT_S = 20.0
_START_PATIENCE = 3.0  # times the seconds that a start is said to take


def with_prices(rules: RouteRules, entries: Sequence[Entry]) -> RouteRules:
    """Return rules whose pods cost what the ledger says, unless the rules say another price.

    entries: of the ledger, the oldest first.
    """
    prices = {entry.name: entry.limits.hourly.dollars for entry in entries}

    def priced(one: Upstream) -> Upstream:
        if one.pod is None or one.usd_per_hour:
            return one
        return msgspec.structs.replace(one, usd_per_hour=prices.get(one.pod, 0.0))

    return msgspec.structs.replace(rules, upstreams=tuple(map(priced, rules.upstreams)))


def rented_pods(rules: RouteRules, opened: OpenAccount) -> dict[str, RentedPod]:
    """Return what starts each upstream of the rules that is a pod, by the upstream's name.

    rules: as the user wrote them.
    """
    ceilings = (Money.of(rules.pods_hourly_usd), Money.of(rules.pods_daily_usd))
    return {
        one.name: RentedPod(one.pod, opened, *ceilings, follows_price=not one.usd_per_hour)
        for one in rules.upstreams
        if one.pod is not None
    }


class RentedPod:
    """A pod of the ledger as an upstream. hourly, daily: the most that all pods may cost, to start it.

    follows_price: whether the router goes by the ledger's price.
    """

    def __init__(
        self, pod: str, opened: OpenAccount, hourly: Money, daily: Money, *, follows_price: bool
    ) -> None:
        self._way = PodWay(pod, opened, hourly, daily)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"pod-{pod}")
        self._live: LiveUpstream | None = None
        self._follows_price = follows_price

    async def start(self, upstream: Upstream) -> str:
        """Start the pod if it is stopped, and open its tunnel. Raises DureError."""
        assert upstream.start_s is not None, "pods have one"
        patience_s = _START_PATIENCE * upstream.start_s
        url = await self._in_thread(partial(self._opened, patience_s))
        if self._live is not None:
            self._live.way, self._live.why_closed = "open", ""
        return url

    def _opened(self, patience_s: float) -> str:
        self._way.start(patience_s)
        return self._way.url

    async def keep(self, router: Router, live: LiveUpstream, found: asyncio.Event) -> None:
        """Open the tunnel whenever the pod runs, until cancelled. found: set when it was looked at."""
        self._live = live
        look_s = beat_s = 0.0
        while True:
            now_s = time.monotonic()
            is_open = await self._in_thread(lambda: self._way.is_open)
            if not is_open and (live.way == "open" or now_s >= look_s):
                await self._find(router, live)
                look_s = time.monotonic() + _LOOK_S
                found.set()
            elif is_open and now_s >= beat_s:
                await self._in_thread(self._way.beat)
                beat_s = now_s + _BEAT_S
            await asyncio.sleep(_STEP_S)

    async def _find(self, router: Router, live: LiveUpstream) -> None:
        if live.way == "open":
            live.way, live.why_closed = "broken", "its tunnel has ended, and is opened again"
            await look(live)
        standing: Standing = await self._in_thread(self._way.find)
        live.way, live.why_closed = standing.state, standing.why
        if standing.state == "open":
            live.move(await self._in_thread(lambda: self._way.url))
        if standing.hourly is not None and self._follows_price:
            router.priced(live.name, standing.hourly.dollars)
        await look(live)

    async def close(self) -> None:
        """End what waits, and the tunnel."""
        self._way.give_up()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        await asyncio.to_thread(self._way.close)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


@asynccontextmanager
async def reaching(
    router: Router, starters: Mapping[str, object], first_s: float = 0.0
) -> AsyncIterator[None]:
    """Keep the ways to all pods until the block ends; no process of theirs outlives it.

    starters: of the router, by name. first_s: how long to wait until each pod was looked at.
    """
    pods = {name: one for name, one in starters.items() if isinstance(one, RentedPod)}
    events = {name: asyncio.Event() for name in pods}
    tasks = [
        asyncio.create_task(one.keep(router, router.upstreams[name], events[name]))
        for name, one in pods.items()
    ]
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(first_s):
                for event in events.values():
                    await event.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(one.close() for one in pods.values()))
