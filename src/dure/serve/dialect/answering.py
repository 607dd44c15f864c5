"""Sends an answer, whole or as a stream, in any dialect.

Knows what a dialect must say of an answer, and when the client has gone.
Refuses to know any dialect: it gives a pure `DialectAnswer`, and how its objects are framed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response

from dure.http.problems import Problem, json_response, problem_of
from dure.http.sse import (
    CLIENT_GONE,
    KEEP_ALIVE,
    EventStream,
    Silence,
    opened,
    sse,
    while_connected,
)

__all__ = ["DialectAnswer", "StreamFraming", "StreamObject", "send_answer", "typed_sse"]

StreamObject = dict[str, Any]
"""What a stream is made of: a chunk, an event or a line, not framed yet."""

E_co = TypeVar("E_co", covariant=True)
E_contra = TypeVar("E_contra", contravariant=True)
E = TypeVar("E")


class DialectAnswer(Protocol[E_contra]):
    """One answer in a dialect, while it is generated. Pure: events in, objects out."""

    def feed(self, event: E_contra, /) -> list[StreamObject]:
        """Return what the stream says of the next event."""

    def alive(self) -> list[StreamObject]:
        """Return what the stream says while nothing happens, so that clients see it go on."""

    def end(self) -> list[StreamObject]:
        """Return what the stream says after the last event."""

    def value(self) -> Any:
        """Return the whole answer, after the last event."""

    def fail(self, problem: Problem, /) -> list[StreamObject]:
        """Return what the stream says if generation fails in the middle."""


class AnswerEvents(Protocol[E_co]):
    """The events of an answer; see `runs`. Closing them ends the engine's work."""

    def __aiter__(self) -> AsyncIterator[E_co]:
        """Yield the events as they come."""

    async def aclose(self) -> None:
        """End the engine's work."""


@dataclass(frozen=True)
class StreamFraming:
    """How a dialect's stream is written.

    frame: the bytes of one object. keep_alive: breaks a silence; b"" never does. last: ends a stream
    that was not cut off.
    """

    frame: Callable[[StreamObject], bytes] = sse
    media_type: str = "text/event-stream"
    keep_alive: bytes = KEEP_ALIVE
    last: bytes = b""

    def framed(self, objects: list[StreamObject]) -> bytes:
        """Return the bytes of some objects."""
        return b"".join(map(self.frame, objects))


def typed_sse(event: StreamObject) -> bytes:
    """Return a server-sent event that is named by its own type."""
    return sse(event, event["type"])


async def send_answer(
    request: Request,
    events: AnswerEvents[E],
    dialect: DialectAnswer[E],
    framing: StreamFraming,
    *,
    stream: bool,
    silence: Silence,
) -> Response:
    """Send an answer, whole or as a stream. The engine's work ends with the client."""
    if not stream:
        return await while_connected(request, _whole(events, dialect))
    chunks = await opened(_chunks(events, dialect, framing), request)
    if chunks is None:
        return Response(status_code=CLIENT_GONE)

    def failure(error: Exception) -> bytes:
        return framing.framed(dialect.fail(problem_of(error)))

    return EventStream(
        chunks,
        failure,
        alive=lambda: framing.framed(dialect.alive()),
        silence=silence,
        comment=framing.keep_alive,
        media_type=framing.media_type,
    )


async def _whole(events: AnswerEvents[E], dialect: DialectAnswer[E]) -> Response:
    async with aclosing(events):
        async for event in events:
            dialect.feed(event)
    return json_response(dialect.value())


async def _chunks(
    events: AnswerEvents[E], dialect: DialectAnswer[E], framing: StreamFraming
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        async for event in events:
            if objects := dialect.feed(event):
                yield framing.framed(objects)
    if last := framing.framed(dialect.end()) + framing.last:
        yield last
