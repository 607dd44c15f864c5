"""A cheap client: streams one answer over a plain socket and records the time of every event.

Knows as much of HTTP/1.1 and server-sent events as a benchmark needs.
Refuses to know which server answers, and what the figures mean.

The client shares the processor with the server, so it must be cheap: no HTTP library, and one process for
all connections.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from measure import BenchError

Body = Mapping[str, Any]

LONGEST_LINE = 1 << 20
DONE = b"[DONE]"
END = "\r\n"


class RefusedError(BenchError):
    """The server answered with an HTTP error; `status` is its number."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"the server answered {status}: {body[:400]!r}")
        self.status = status


@dataclass(slots=True)
class Answer:
    """A streamed answer. Times are in seconds since the client began to send the request.

    events: the time of each piece of text. tokens: the server's count; 0 if it was cut off.
    """

    started: float
    events: list[float] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    tokens: int = 0
    finished: float = 0.0
    whole: bool = False

    @property
    def first(self) -> float:
        """Return the time to the first text. Raises BenchError if there is none."""
        if not self.events:
            raise BenchError(
                "an answer without any text: the model wrote none, or the server broke"
            )
        return self.events[0]

    @property
    def gaps(self) -> list[float]:
        """Return the seconds between pieces of text."""
        return [
            later - earlier for earlier, later in zip(self.events, self.events[1:], strict=False)
        ]


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens, and the API key that it wants, if any."""

    host: str
    port: int
    key: str = ""


async def stream(
    address: Address, path: str, body: Body, *, leave: Callable[[Answer], bool] | None = None
) -> Answer:
    """Request a streamed answer and read it to its end, or until `leave` says to hang up.

    Raises RefusedError if the server answers with an error, BenchError if the stream breaks.
    """
    answer = Answer(time.perf_counter())
    async with _request(address, "POST", path, body) as reply:
        async for data in _events(_lines(_chunks(reply))):
            if data == DONE:
                answer.whole = True
                break
            _take(answer, data)
            if leave is not None and leave(answer):
                break
    answer.finished = time.perf_counter() - answer.started
    if not answer.whole and leave is None:
        raise BenchError("a stream ended before [DONE]: the server broke it off")
    return answer


async def fetch(address: Address, method: str, path: str, body: Body | None = None) -> bytes:
    """Return the body of an answer that is no stream. Raises RefusedError on an HTTP error."""
    async with _request(address, method, path, body) as reply:
        return b"".join([chunk async for chunk in _chunks(reply)])


async def read(address: Address, path: str, body: Body, chunks: int | None = None) -> bytes:
    """Return what the server sends, up to so many chunks, after which it hangs up; None: all of it.

    Raises RefusedError on an HTTP error, BenchError if the connection breaks.
    """
    found = list[bytes]()
    async with _request(address, "POST", path, body) as reply:
        async for chunk in _chunks(reply):
            if chunks is not None and len(found) >= chunks:
                break
            found.append(chunk)
    return b"".join(found)


@dataclass(frozen=True, slots=True)
class _Reply:
    reader: asyncio.StreamReader
    length: int | None  # None: in chunks, -1: until the server hangs up


@asynccontextmanager
async def _request(
    address: Address, method: str, path: str, body: Body | None
) -> AsyncIterator[_Reply]:
    payload = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        f"{f'X-Api-Key: {address.key}' + END if address.key else ''}Connection: close{END}{END}"
    )
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=LONGEST_LINE)
    try:
        writer.write(head.encode() + payload)
        await writer.drain()
        yield await _reply(reader)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        raise BenchError(f"{path}: the connection broke: {error}") from error
    finally:
        writer.close()


async def _reply(reader: asyncio.StreamReader) -> _Reply:
    status_line = await reader.readline()
    if not status_line.startswith(b"HTTP/1.1 "):
        raise BenchError(f"the server does not speak HTTP/1.1: {status_line[:80]!r}")
    headers = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip().lower()
    chunked = headers.get(b"transfer-encoding") == b"chunked"
    reply = _Reply(reader, None if chunked else int(headers.get(b"content-length", b"-1")))
    status = int(status_line.split()[1])
    if status != 200:
        raise RefusedError(status, b"".join([chunk async for chunk in _chunks(reply)]))
    return reply


async def _chunks(reply: _Reply) -> AsyncIterator[bytes]:
    if reply.length is not None:
        yield await (
            reply.reader.read() if reply.length < 0 else reply.reader.readexactly(reply.length)
        )
        return
    while size := int((await reply.reader.readline()).split(b";")[0], 16):
        yield (await reply.reader.readexactly(size + 2))[:-2]


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


async def _events(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for line in lines:
        if line.startswith(b"data:"):
            yield line[5:].strip()


def _take(answer: Answer, data: bytes) -> None:
    now = time.perf_counter() - answer.started
    event = json.loads(data)
    if "error" in event:
        raise BenchError(f"the stream carries an error: {data[:400]!r}")
    if usage := event.get("usage"):
        answer.prompt_tokens = usage["prompt_tokens"]
        answer.tokens = usage["completion_tokens"]
    for choice in event.get("choices", ()):
        delta = choice.get("delta", choice)
        text = delta.get("content") or delta.get("reasoning_content") or choice.get("text")
        if text:
            answer.events.append(now)
            answer.text.append(text)
