"""Answers HEAD at every address that answers GET; programs ask so whether a server is there.

Knows that the server drops the body of such an answer. Refuses to know routes.
"""

from __future__ import annotations

from dure.http.guards.asgi import App, Receive, Scope, Send

__all__ = ["HeadAsGet"]


class HeadAsGet:
    """Shows a HEAD request as a GET to what is behind it."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the server reads its own, and sends no body
        await self._app(scope, receive, send)
