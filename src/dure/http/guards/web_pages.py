"""Refuses web pages of others, on a server that this machine alone reaches and that wants no key.

Any page in a browser on this machine can send requests to it; and a page whose name is made to lead to this
machine while it is open (DNS rebinding) could read the answers. The browser tells both: by the name in
`Host`, and by `Origin`. Refuses to judge programs, which send what they like.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from dure.http.guards.asgi import App, Receive, Scope, Send, header
from dure.http.guards.keys import KeyRing
from dure.http.guards.refusal import Refusal, refuse

__all__ = ["WebPages"]

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PORT = re.compile(r":\d{1,5}$")
_FOREIGN_NAME = Refusal(
    403,
    "this server has no keys, and is asked by a name that may be a web page's: ask it as localhost, give it"
    " keys, or name the page with --cors-origin",
)
_FOREIGN_PAGE = Refusal(
    403,
    "this server has no keys, and a web page of another address asks it: give it keys, or name the page"
    " with --cors-origin",
)


class WebPages:
    """Answers 403 to web pages that are neither its own nor among `origins`, while there are no keys."""

    def __init__(self, app: App, origins: Sequence[str], keys: KeyRing) -> None:
        self._app, self._keys = app, keys
        self._origins = frozenset(origins)
        own = socket.gethostname().lower()
        named = {urlsplit(origin).hostname or "" for origin in origins}
        self._names = frozenset({"", "localhost", own, f"{own}.local", *named})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        refusal = None
        if scope["type"] == "http" and not self._keys and "*" not in self._origins:
            refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refuse(send, refusal, scope["path"])

    def _refusal(self, scope: Scope) -> Refusal | None:
        host = _text(scope, b"host")
        if not _is_this_machine(_PORT.sub("", host).rstrip("."), self._names):
            return _FOREIGN_NAME
        if (origin := _text(scope, b"origin")) and not self._may_ask(origin, host):
            return _FOREIGN_PAGE
        is_foreign = _text(scope, b"sec-fetch-site") == "cross-site" and not origin
        return (
            _FOREIGN_PAGE if is_foreign and _text(scope, b"sec-fetch-mode") != "navigate" else None
        )

    def _may_ask(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if origin in self._origins or parts.netloc == host:
            return True
        return "localhost" in self._origins and parts.hostname in _LOOPBACK


def _text(scope: Scope, name: bytes) -> str:
    return (header(scope, name) or b"").decode("latin-1").lower()


def _is_this_machine(name: str, allowed: Collection[str]) -> bool:
    """Return whether no web page can have such a name: whoever runs a network decides where others lead."""
    if name in allowed or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True
