"""Answers `GET /metrics`, behind the key check and before anything that a busy server would slow down."""

from __future__ import annotations

from dure.http.guards.asgi import App, Receive, Scope, Send
from dure.http.metrics import CONTENT_TYPE, ServerMetrics

__all__ = ["Figures"]


class Figures:
    """Answers with the page that Prometheus reads."""

    def __init__(self, app: App, metrics: ServerMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http" or scope["path"] != "/metrics" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        text = self._metrics.text()
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", b"%d" % len(text)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})
