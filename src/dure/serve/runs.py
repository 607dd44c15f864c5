"""Runs answers on the engine: one, or several of one request as if they were one.

Knows when the engine's work begins and that it always ends. Refuses to know what the events say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeAlias, TypeVar

from dure.errors import BusyError
from dure.serve.engine import TokenStream

__all__ = ["Merged", "Run"]

E = TypeVar("E")
_Queue: TypeAlias = "asyncio.Queue[tuple[int, E | Exception | None]]"


class Run(Generic[E]):
    """The events of an answer that the engine has begun; iterate it once.

    The engine's work ends when the iteration ends or is cancelled, and at `aclose`, which whoever
    does not iterate to the end must call (`contextlib.aclosing`).
    """

    def __init__(self, stream: TokenStream, events: AsyncGenerator[E, None]) -> None:
        self._stream, self._events = stream, events

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        return await self._events.__anext__()

    def cancel(self) -> None:
        """End the engine's work, without waiting."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """End the engine's work and the iteration."""
        self._stream.cancel()
        await self._events.aclose()


class Merged(Generic[E]):
    """The events of n runs as they come, each with its run's index. Close it as a Run.

    The first at_once begin with it, all or none; each of the others when one ends, so that one
    request never fills the queue of all.
    """

    def __init__(self, begin: Callable[[int], Run[E]], n: int, at_once: int) -> None:
        self._begin = begin
        self._runs: list[Run[E]] = []
        self._later = iter(range(min(n, at_once), n))
        try:
            for index in range(min(n, at_once)):
                self._runs.append(begin(index))
        except BaseException:
            self._cancel()
            raise
        self._events = self._one() if n == 1 else self._many()

    def __aiter__(self) -> AsyncIterator[tuple[int, E]]:
        return self

    async def __anext__(self) -> tuple[int, E]:
        return await self._events.__anext__()

    async def aclose(self) -> None:
        """End the engine's work on all of them."""
        self._cancel()
        await self._events.aclose()

    def _cancel(self) -> None:
        for run in self._runs:
            run.cancel()

    async def _one(self) -> AsyncGenerator[tuple[int, E], None]:
        async with aclosing(self._runs[0]) as run:
            async for event in run:
                yield 0, event

    async def _many(self) -> AsyncGenerator[tuple[int, E], None]:
        queue: _Queue[E] = asyncio.Queue()
        tasks = [
            asyncio.create_task(self._pump(index, run, queue))
            for index, run in enumerate(self._runs)
        ]
        try:
            left = len(tasks)
            while left:
                index, event = await queue.get()
                if event is None:
                    left -= 1
                elif isinstance(event, Exception):
                    raise event
                else:
                    yield index, event
        finally:
            self._cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, index: int, run: Run[E], queue: _Queue[E]) -> None:
        """Read one run after the other, until none is left."""
        try:
            while True:
                async with aclosing(run):
                    async for event in run:
                        queue.put_nowait((index, event))
                if (later := next(self._later, None)) is None:
                    break
                index, run = later, await self._begun_later(later)
            queue.put_nowait((index, None))
        except Exception as error:  # raised where the events are read
            queue.put_nowait((index, error))

    async def _begun_later(self, index: int) -> Run[E]:
        while True:
            try:
                run = self._begin(index)
            except BusyError as busy:  # the request was admitted: this part of it waits its turn
                await asyncio.sleep(busy.retry_after_s)
            else:
                self._runs.append(run)
                return run
