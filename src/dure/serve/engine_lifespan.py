"""Starts the engines with the server, and ends the server if they cannot be started.

Knows when loading is done. Refuses to know what an engine is made of.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from dure.errors import DureError
from dure.worker.supervisor import EngineSupervisor

__all__ = ["EngineLifespan"]

_LOOK_EVERY_S = 0.1


class EngineLifespan:
    """The engines' life within that of the server. error: why they could not be started, if so.

    ready: called when all models are loaded. progress: gets what the first one loads, and how far
    (0 to 1).
    """

    def __init__(
        self,
        engines: Sequence[EngineSupervisor],
        ready: Callable[[], None],
        progress: Callable[[str, float], None],
    ) -> None:
        self._engines, self._ready, self._progress = engines, ready, progress
        self.error: DureError | None = None

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Run the engines from before the first request to after the last."""
        for engine in self._engines:
            engine.start()
        watcher = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(*(engine.close() for engine in self._engines))

    async def _watch(self) -> None:
        loading = asyncio.create_task(self._loaded())
        first = self._engines[0]
        try:
            while not loading.done():
                self._progress(first.doing, first.progress)
                await asyncio.wait([loading], timeout=_LOOK_EVERY_S)
            await loading
        except DureError as error:
            self.error = error
            os.kill(os.getpid(), signal.SIGTERM)  # as if someone had stopped it: in good order
            return
        finally:
            loading.cancel()  # else, at a stop, nobody takes its error
        self._ready()

    async def _loaded(self) -> None:
        await asyncio.gather(*(engine.ready() for engine in self._engines))
