"""Chooses the headers that go on, to an upstream and back to the client.

Keys never do: a client's key is the router's business, and an upstream's key stays inside. Nor do headers
that are about one connection.
"""

from __future__ import annotations

from collections.abc import Iterable

from dure.http.guards.asgi import Headers

__all__ = ["PRIVATE", "REASON", "TARGET", "key_headers", "to_browser", "to_client", "to_upstream"]

TARGET, REASON, PRIVATE = b"x-route-target", b"x-route-reason", b"x-route-private"
_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization"),
        *(b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
_NOT_UP = _HOP_BY_HOP | {
    *(b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"api-key", b"cookie"),
    *(b"accept-encoding", b"x-request-id", PRIVATE, TARGET),
}  # without accept-encoding answers come as they are, and can be measured
_NOT_DOWN = _HOP_BY_HOP | {b"date", b"server", b"set-cookie", b"x-request-id", TARGET, REASON}


def key_headers(secret: bytes) -> Headers:
    """Return the headers that show a key, none if there is none."""
    return [(b"authorization", b"Bearer " + secret), (b"x-api-key", secret)] if secret else []


def to_upstream(
    headers: Iterable[tuple[bytes, bytes]], key: Headers, request_id: str, *, private: bool
) -> Headers:
    """Return the headers for an upstream, which may be a router too. key: those that show its own key."""
    more = [(PRIVATE, b"house")] if private else []
    passed = _passed(headers, _NOT_UP)
    return [*passed, *key, (b"x-request-id", request_id.encode()), *more]


def to_client(headers: Iterable[tuple[bytes, bytes]], target: str, reason: str) -> Headers:
    """Return the headers for a client, with who answers it and why."""
    passed = _passed(headers, _NOT_DOWN)
    return [*passed, (TARGET, target.encode()), (REASON, reason.encode())]


def to_browser(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of an answer that is only forwarded."""
    return _passed(headers, _NOT_DOWN - {TARGET, REASON})


def _passed(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes]) -> Headers:
    given = list(headers)
    named = {
        word.strip().lower()
        for name, value in given
        if name == b"connection"
        for word in value.split(b",")
    }
    return [(name, value) for name, value in given if name not in without and name not in named]
