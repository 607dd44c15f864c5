"""Lets in requests with a valid API key, and notes whose they are."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import partial

from dure.http.access_log import record_of
from dure.http.guards.asgi import App, Receive, Scope, Send, header
from dure.http.guards.keys import ApiKey, KeyRing
from dure.http.guards.refusal import Refusal, refuse
from dure.http.guards.stopping import HEALTH_PATHS

__all__ = ["OWN_KEY", "KeyCheck", "is_let_in", "key_of", "owner_of"]

OWN_KEY = "dure-ps"  # of this user's own commands, every server makes a new one

_log = logging.getLogger("dure.serve")
_OPEN_PATHS = HEALTH_PATHS | {"/", "/docs"}  # a browser shows what these say, and sends no key
_OPEN_FILE = re.compile(r"/page/assets/[A-Za-z0-9_-][A-Za-z0-9._-]*")  # it has no secrets
_NO_KEY = Refusal(
    401, "an API key is wanted: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`"
)
_WRONG_KEY = Refusal(401, "this API key is not known, or was revoked")


class KeyCheck:
    """Answers 401 to requests without a valid key, except for health, and for the page that takes a key.

    The key becomes scope["state"]["key"], by which work is shared fairly. With no keys at all, everyone
    is let in.
    """

    def __init__(self, app: App, keys: KeyRing) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        key = self._key(scope) if self._keys else None
        if self._keys and key is None and not _is_open(scope):
            refusal = _WRONG_KEY if any(_shown(scope)) else _NO_KEY
            await refuse(send, refusal, scope["path"])
            return
        _note(scope, key)
        scope["state"]["is_let_in"] = partial(self._is_let_in, scope)
        await self._app(scope, receive, send)

    def _is_let_in(self, scope: Scope) -> bool:
        return not self._keys or self._key(scope) is not None

    def _key(self, scope: Scope) -> ApiKey | None:
        if self._keys.refresh():
            if self._keys.problem:
                _log.error("every API key of the file is refused: %s", self._keys.problem)
            else:
                _log.warning("the API keys were read again")
        found = [self._keys.find(shown) for shown in _shown(scope)]
        return next((key for key in found if key is not None), None)


def _is_open(scope: Scope) -> bool:
    path = scope["path"]
    if scope["method"] in ("GET", "HEAD") and _OPEN_FILE.fullmatch(path):
        return bool(scope.get("raw_path", path.encode()) == path.encode())  # spelt as it is meant
    return path in _OPEN_PATHS


def _shown(scope: Scope) -> Iterator[bytes]:
    """Yield the keys of a request, at most one a header."""
    kind, _, token = (header(scope, b"authorization") or b"").partition(b" ")
    if kind.lower() == b"bearer" and token.strip():
        yield token.strip()
    for name in (b"x-api-key", b"api-key"):
        if key := header(scope, name):
            yield key.strip()


def _note(scope: Scope, key: ApiKey | None) -> None:
    scope.setdefault("state", {})["key"] = key
    if record := record_of(scope):
        record.owner = key.name if key else ""


def key_of(scope: Scope) -> ApiKey | None:
    """Return the key that a request came with, None if none is wanted."""
    key: ApiKey | None = scope.get("state", {}).get("key")
    return key


def is_let_in(scope: Scope) -> bool:
    """Return whether the request would be let in now too: its key may have been revoked meanwhile."""
    check: Callable[[], bool] | None = scope.get("state", {}).get("is_let_in")
    return check is None or check()


def owner_of(scope: Scope) -> str:
    """Return the name of the key that the request came with, "" if none is wanted."""
    key = key_of(scope)
    return key.name if key else ""
