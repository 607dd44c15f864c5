"""Turns a bug of ours into a 500 without details, and a traceback in the log."""

from __future__ import annotations

import logging

from dure.http.access_log import record_of
from dure.http.guards.asgi import App, Message, Receive, Scope, Send
from dure.http.guards.refusal import Refusal, refuse

__all__ = ["Faults"]

_log = logging.getLogger("dure.serve")


class Faults:
    """Ends a request that met a bug of ours: with a 500, or an error in the answer if that has begun."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stream = StartedAnswer(send)
        try:
            await self._app(scope, receive, stream.send)
        except Exception:
            record = record_of(scope)
            name = record.id if record else ""
            _log.exception("a bug of ours in request %s of %s", name, ascii(scope["path"]))
            fault = Refusal(
                500, f"an error inside dure: the log of the server tells of it ({name})"
            )
            await stream.end(fault, scope["path"])


class StartedAnswer:
    """An answer that is being sent, and can be ended by an error at any point."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._content_type: bytes | None = None
        self._complete = False

    async def send(self, message: Message) -> None:
        """Send a message, and note how far the answer is."""
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            self._content_type = next((v for k, v in headers if k.lower() == b"content-type"), b"")
        elif not message.get("more_body", False):
            self._complete = True
        await self._send(message)

    async def end(self, refusal: Refusal, path: str) -> None:
        """Send the refusal as the whole answer, or as a stream's last event; else cut the connection.

        A body of a stated length cannot be ended by an error: it stays short, and clients see that.
        """
        if self._content_type is None:
            await refuse(self._send, refusal, path)
        elif not self._complete and (last := refusal.stream_end(path, self._content_type)):
            await self._send({"type": "http.response.body", "body": last})
