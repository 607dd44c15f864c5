"""An upstream that answers as it is told: well, slowly, busily, or not to the end.

A small HTTP/1.1 server in a thread. It keeps every request that it was sent, and every byte of an answer's
body. Knows no model.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal[
    "whole",
    "stream",
    "stream-and-close",
    "dies-before",
    "dies-after",
    "busy",
    "loading",
    "fault",
    "not-found",
    "not-supported",
    "hangs",
    "endless",
]
EVENTS = (
    b'data: {"choices":[{"delta":{"content":"The "}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"bell"}}]}\n\n',
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n',
    b"data: [DONE]\n\n",
)
WHOLE = (
    b'{"choices":[{"message":{"content":"The bell"}}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":2}}'
)
FIXED: Mapping[str, tuple[int, bytes, str]] = {
    "whole": (200, WHOLE, ""),
    "busy": (429, b'{"error":{"message":"enough"}}', "retry-after: 60\r\n"),
    "loading": (503, b'{"error":{"message":"Loading model"}}', "retry-after: 60\r\n"),
    "not-found": (404, b'{"error":{"message":"no model is named so"}}', ""),
    "not-supported": (501, b'{"error":{"message":"it does not embed"}}', ""),
    "fault": (500, b'{"error":{"message":"a bug"}}', ""),
}


@dataclass
class Seen:
    """A request that the upstream got."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedUpstream:
    """How it answers, and what it was asked.

    models_page: instead of the list of its models. absent: addresses that it does not have.
    probes_break: it hangs up when it is asked for one that nobody has. pieces: of a stream, sent one by
    one. requests: those that came through a router. answering: an answer has begun, or hangs. left: a
    client hung up before the end of its answer.
    """

    url: str = ""
    models: Sequence[str] = ("small",)
    models_page: bytes = b""
    absent: Sequence[str] = ()
    mode: Mode = "whole"
    probes_break: bool = False
    pieces: Sequence[bytes] = EVENTS
    requests: list[Seen] = field(default_factory=list)
    loop: asyncio.AbstractEventLoop | None = None
    ended: asyncio.Event | None = None
    thread: threading.Thread | None = None
    answering: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """End it, so that nobody listens at its port any more; its block does so too."""
        if self.loop is not None and self.ended is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.ended.set)
        if self.thread is not None:
            self.thread.join(30)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection."""
        try:
            while await self._answer(await _read(reader), writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left.set()
        except asyncio.CancelledError:
            pass  # it ends, and asyncio's streams take a cancelled task for a fault
        finally:
            if self._is_ending():
                writer.transport.abort()
            writer.close()

    def _is_ending(self) -> bool:
        return self.ended is not None and self.ended.is_set()

    async def _answer(self, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        """Answer a request; return whether the connection may go on."""
        if seen.path == "/health":
            _write(writer, 200, b'{"status":"ok"}')
        elif seen.path == "/v1/models":
            data = [{"id": name} for name in self.models]
            _write(writer, 200, self.models_page or json.dumps({"data": data}).encode())
        elif seen.path in ("/metrics", "/props"):
            _write(writer, 404, b"{}")
        else:
            if "x-request-id" in seen.headers:  # it is no request of the router's own
                self.requests.append(seen)
            if self.probes_break and seen.path.endswith("-of-nobody"):
                return False
            if seen.path in self.absent or seen.path.endswith("-of-nobody"):
                _write(writer, 404, b'{"detail":"Nothing at %s"}' % seen.path.encode())
                return True
            return await self._as_told(writer)
        return True

    async def _as_told(self, writer: asyncio.StreamWriter) -> bool:
        match self.mode:
            case "dies-before":
                return False
            case "hangs":
                self.answering.set()
                await asyncio.sleep(3600)
                return False
            case "stream" | "stream-and-close" | "dies-after" | "endless":
                return await self._stream(writer)
            case mode:
                _write(writer, *FIXED[mode])
                return True

    async def _stream(self, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        writer.write(b"transfer-encoding: chunked\r\nx-of-upstream: yes\r\n\r\n")
        pieces = self.pieces[:1] if self.mode == "dies-after" else self.pieces
        for piece in pieces:
            await _chunk(writer, piece)
        self.answering.set()
        if self.mode == "dies-after":
            return False
        while self.mode == "endless":
            await _chunk(writer, self.pieces[0])
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")
        if self.mode == "stream-and-close":  # as llama-server does, whose headers do not say so
            await asyncio.sleep(0.02)
            return False
        return True


async def _chunk(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
    await writer.drain()
    await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader) -> Seen:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in head[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(head[0].split(" ")[1], headers, body)


def _write(writer: asyncio.StreamWriter, status: int, body: bytes, more: str = "") -> None:
    head = f"HTTP/1.1 {status} Told\r\ncontent-type: application/json\r\n{more}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


@contextmanager
def scripted(
    models: Sequence[str] = ("small",),
    mode: Mode = "whole",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[ScriptedUpstream]:
    """Run an upstream until the block ends, at a free port if none is given."""
    upstream = ScriptedUpstream(models=models, mode=mode)
    ready = threading.Event()
    upstream.thread = threading.Thread(
        target=lambda: asyncio.run(_serve(upstream, port, tls, ready))
    )
    upstream.thread.start()
    assert ready.wait(30), "it did not start"
    try:
        yield upstream
    finally:
        upstream.close()


async def _serve(
    upstream: ScriptedUpstream, port: int, tls: ssl.SSLContext | None, ready: threading.Event
) -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    server = await asyncio.start_server(upstream.handle, "127.0.0.1", port, ssl=tls)
    scheme = "https" if tls else "http"
    upstream.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    upstream.loop, upstream.ended = loop, ended
    ready.set()
    await ended.wait()
    server.close()
    for _ in range(20):  # those that have just connected begin, so that they can end
        await asyncio.sleep(0)
