"""Allows web pages of named origins to call the API from a browser."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware

from dure.http.guards.asgi import App

__all__ = ["Cors"]

_EXPOSED = ("x-request-id", "retry-after", "x-route-target", "x-route-reason")


def Cors(app: App, origins: Sequence[str]) -> App:  # noqa: N802 (it stands in the stack of guards)
    """Return the app with the headers by which a browser lets pages of these origins call it."""
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE", "OPTIONS"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=600,
    )
