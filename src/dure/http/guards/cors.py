"""Allows web pages of named origins to call the API from a browser."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response

from dure.http.guards.asgi import App, Message, Receive, Scope, Send

__all__ = ["Cors"]

_EXPOSED = ("x-request-id", "x-dure-ignored", "retry-after", "x-route-target", "x-route-reason")
_OF_THIS_MACHINE = r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?"
_PREFIX = b"access-control-"


def Cors(app: App, origins: Sequence[str]) -> App:  # noqa: N802 (it stands in the stack of guards)
    """Return the app with the headers by which a browser lets pages of these origins call it."""
    if not origins:
        return app
    middleware = _Middleware(
        app,
        allow_origins=[origin for origin in origins if origin != "localhost"],
        allow_origin_regex=_OF_THIS_MACHINE if "localhost" in origins else None,
        allow_methods=("GET", "POST", "DELETE", "OPTIONS"),
        allow_headers=("*",),
        allow_credentials=True,  # there are no cookies here, but pages may ask in this mode
        expose_headers=_EXPOSED,
        max_age=600,
    )
    return _TitleCase(middleware)


class _Middleware(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        """Tell what is allowed. The browser decides; an error would only hide the reason from it."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        return PlainTextResponse("this origin, method or header is not allowed")


class _Name(bytes):
    """A header's name that stays as it is written: uvicorn sends all names in lower case."""

    def lower(self) -> bytes:
        return self


class _TitleCase:
    """Writes the headers' names as the standard does: some programs compare them letter by letter."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def titled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    (_Name(name.title()) if name.startswith(_PREFIX) else name, value)
                    for name, value in message.get("headers", ())
                ]
            await send(message)

        await self._app(scope, receive, titled)
