"""Reads a request's whole body before the API sees the request, if it is not too large or too slow.

Every body of this API is one JSON text that is parsed as a whole, so nothing is lost by waiting, and a
slow client holds no more than its own bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from dure.http.guards.asgi import App, Message, Receive, Scope, Send, header
from dure.http.guards.refusal import Refusal, refuse

__all__ = ["WholeBody"]

_LEAST_BYTES_PER_S = 1024  # slower ones are cut off, however long their body
_DRAIN_S = 1.0


class WholeBody:
    """Answers 413 above max_bytes, stated or counted, and 408 if the body is late.

    timeout_s: for the body, and another second for every KiB that has come. refuse: how it answers.
    """

    def __init__(
        self,
        app: App,
        max_bytes: int,
        timeout_s: float,
        refuse: Callable[[Send, Refusal, str], Awaitable[None]] = refuse,
    ) -> None:
        self._app, self._max_bytes, self._timeout_s = app, max_bytes, timeout_s
        self._refuse = refuse
        self._too_large = Refusal(
            413, f"the body is larger than {max_bytes} bytes: send less", close=True
        )
        self._too_slow = Refusal(
            408, f"the body did not come within {timeout_s:g} s: send it faster", close=True
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outcome = await self._read(scope, receive)
        if isinstance(outcome, Refusal):
            await self._refuse(_draining(receive, send), outcome, scope["path"])
        elif outcome is not None:
            await self._app(scope, _replay(outcome, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | Refusal | None:
        """Return the body, why it is refused, or None if the client has hung up."""
        if int(header(scope, b"content-length") or 0) > self._max_bytes:
            return self._too_large
        parts: list[bytes] = []
        size, start = 0, time.monotonic()
        while True:
            late = start + self._timeout_s + size / _LEAST_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(late):
                    message = await receive()
            except TimeoutError:
                return self._too_slow
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self._max_bytes:
                return self._too_large
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


def _draining(receive: Receive, send: Send) -> Send:
    """Return a `send` that reads more of the body before it ends the answer.

    Closing a connection on which bytes are still coming would reset it, and the client never read why.
    """

    async def sending(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b""})

    return sending


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, then whatever comes: the client's hanging up."""
    waiting: list[bytes] = [body]

    async def replayed() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replayed
