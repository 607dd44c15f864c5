"""Sends answers that take long, as streams that show they are alive, and notices hanging up.

Knows ASGI: when headers go out, what watches the connection, and that work ends with the client.
Refuses to know what the chunks say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from dure.errors import DureError

__all__ = ["EventStream", "Silence", "opened", "sse", "while_connected"]

T = TypeVar("T")
log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode

KEEP_ALIVE = b": keep-alive\n\n"
FIRST_CHUNK_S = 2.0  # an error within this time still becomes a status
CLIENT_GONE = 499  # as nginx logs it; nobody reads it

Chunks = AsyncGenerator[bytes, None]


def sse(data: object, event: str | None = None) -> bytes:
    """Return a server-sent event of JSON data."""
    if event is None:
        return b"data: " + _encode(data) + b"\n\n"
    return b"event: " + event.encode() + b"\ndata: " + _encode(data) + b"\n\n"


@dataclass(frozen=True)
class Silence:
    """How long a stream may be silent: comment_s until a comment, event_s until an event that has data.

    A comment keeps proxies alive; clients that wait for events do not see it.
    """

    comment_s: float = 5.0
    event_s: float = 20.0


class EventStream(Response):
    """Sends chunks as they come, one write each, and closes them when the client hangs up.

    failure: makes the chunk that reports an error in the middle of the stream. alive: makes the event that
    breaks a silence. comment: breaks a shorter one. b"" is never sent.
    """

    def __init__(
        self,
        chunks: Chunks,
        failure: Callable[[Exception], bytes],
        *,
        alive: Callable[[], bytes],
        silence: Silence,
        comment: bytes = KEEP_ALIVE,
        media_type: str = "text/event-stream",
    ) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(None, 200, headers, media_type)
        del self.headers["content-length"]
        self._chunks, self._failure = chunks, failure
        self._alive, self._silence, self._comment = alive, silence, comment
        self._last = self._last_event = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        """Send until the chunks or the client end."""
        try:
            await _first_of(self._send(send), receive)
        finally:
            await self._chunks.aclose()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        self._last = self._last_event = asyncio.get_running_loop().time()
        beat = asyncio.create_task(self._beat(send))
        try:
            await self._send_chunks(send)
        finally:
            beat.cancel()
            with suppress(asyncio.CancelledError):
                await beat
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_chunks(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        try:
            async for chunk in self._chunks:
                self._last = self._last_event = clock()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except OSError:
            raise  # the connection is gone: there is nobody to tell
        except Exception as error:
            if not isinstance(error, DureError):
                log.exception("a stream broke off")
            chunk = self._failure(error)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _beat(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            event_at = self._last_event + self._silence.event_s
            comment_at = self._last + self._silence.comment_s if self._comment else event_at
            if (wait := min(event_at, comment_at) - now) > 0:
                await asyncio.sleep(wait)
                continue
            self._last = now
            broken = self._comment
            if event_at <= now:
                self._last_event = now
                broken = self._alive() or broken
            if broken:
                await send({"type": "http.response.body", "body": broken, "more_body": True})


async def opened(chunks: Chunks, request: Request) -> Chunks | None:
    """Return the same chunks once the first has come, or has been waited for.

    Raises what the first raises, so that an error at the beginning can be a status.
    Returns None if the client has gone; the chunks are closed then.
    """
    first = asyncio.ensure_future(anext(chunks))
    gone = asyncio.create_task(_hang_up(request.receive))
    try:
        await asyncio.wait(
            {first, gone}, timeout=FIRST_CHUNK_S, return_when=asyncio.FIRST_COMPLETED
        )
        if first.done():
            first.result()
    except BaseException:
        await _cancelled(first)
        await chunks.aclose()
        raise
    finally:
        await _cancelled(gone)
    if not first.done() and gone.done() and not gone.cancelled():
        await _cancelled(first)
        await chunks.aclose()
        return None
    return _resumed(first, chunks)


async def _resumed(first: asyncio.Future[bytes], chunks: Chunks) -> Chunks:
    try:
        yield await first
        async for chunk in chunks:
            yield chunk
    finally:
        await _cancelled(first)
        await chunks.aclose()


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | Response:
    """Return the work's result. If the client hangs up first, the work is cancelled."""
    result = await _first_of(work, request.receive)
    return Response(status_code=CLIENT_GONE) if result is None else result


async def _first_of(work: Coroutine[Any, Any, T], receive: Receive) -> T | None:
    """Return the work's result, or None if the client hung up before."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        await _cancelled(task)
        await _cancelled(gone)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """End a task and wait for its end; what it raises has been seen already, or is nobody's."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
