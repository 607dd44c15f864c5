"""Starts upstreams that are asleep or off: each once, for all requests that wait for it.

Refuses to know how a machine or a pod is started (`starting`), and when it is worth it (`decision`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from dure.errors import DureError
from dure.route.live_upstream import LiveUpstream
from dure.route.starting import Starter
from dure.route.watching import look

__all__ = ["UpstreamStarts"]

_PATIENCE = 3.0  # times the seconds that a start is said to take
_STEP_S = 1.0


class UpstreamStarts:
    """The starts that go on. starters: what starts an upstream, by its name."""

    def __init__(self, starters: Mapping[str, Starter]) -> None:
        self._starters = dict(starters)
        self._running: dict[str, asyncio.Task[bool]] = {}

    async def started(self, live: LiveUpstream) -> bool:
        """Start an upstream, and return whether it is up."""
        if live.name not in self._starters:
            return False
        if live.name not in self._running:
            task = asyncio.create_task(self._start(live, self._starters[live.name]))
            self._running[live.name] = task
            task.add_done_callback(lambda _: self._running.pop(live.name, None))
        return await asyncio.shield(self._running[live.name])

    async def _start(self, live: LiveUpstream, starter: Starter) -> bool:
        start_s = live.upstream.start_s or 0.0
        began_s = time.monotonic()
        give_up_s = began_s + max(start_s, live.learned.start_s or 0.0) * _PATIENCE
        why = "did not wake up" if live.upstream.wake else "did not start"
        was_stopped = live.way == "stopped"  # else it may have run already, which takes no time
        try:
            while time.monotonic() < give_up_s:
                live.move(await starter.start(live.upstream))
                await look(live)
                if live.health.status == "up":
                    if was_stopped:
                        live.learned.observe_start(time.monotonic() - began_s)
                    return True
                await asyncio.sleep(_STEP_S)
        except DureError as error:
            why = str(error)
        live.health = live.health.did_not_start(time.monotonic(), start_s, why)
        return False
