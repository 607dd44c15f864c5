"""Names ASGI's parts, and wraps what is sent. Source: the ASGI specification, HTTP 2.3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ["App", "Headers", "Message", "Receive", "Scope", "Send", "header", "with_headers"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of that name (lower case), None if there is none."""
    return next((value for key, value in scope["headers"] if key == name), None)


def with_headers(send: Send, more: Callable[[], Iterable[tuple[bytes, bytes]]]) -> Send:
    """Return a `send` that adds headers to the answer, which are made when it starts."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *more()]
        await send(message)

    return sending
