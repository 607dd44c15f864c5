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

_OF_A_HOUSE = (".localhost", ".local", ".lan", ".home.arpa", ".internal")
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
        self._names = {urlsplit(origin).hostname or "" for origin in origins}

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
        host = (header(scope, b"host") or b"").decode("latin-1").lower()
        if not _is_of_this_house(_PORT.sub("", host), self._names):
            return _FOREIGN_NAME
        origin = (header(scope, b"origin") or b"").decode("latin-1").lower()
        return None if self._may_ask(origin, host) else _FOREIGN_PAGE

    def _may_ask(self, origin: str, host: str) -> bool:
        if not origin or origin in self._origins or urlsplit(origin).netloc == host:
            return True
        return "localhost" in self._origins and urlsplit(origin).hostname in (
            "localhost",
            "127.0.0.1",
            "::1",
        )


def _is_of_this_house(name: str, allowed: Collection[str]) -> bool:
    """Return whether no web page can have such a name: it is an address, or one that only a house knows."""
    if "." not in name or name.endswith(_OF_A_HOUSE) or name in allowed:
        return True
    try:
        ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return name == socket.gethostname().lower()
    return True
