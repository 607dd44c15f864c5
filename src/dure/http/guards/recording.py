"""Gives every request its id and its record, and hands the record on when the answer has ended."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

from dure.http.access_log import RequestRecord, current_record
from dure.http.guards.asgi import App, Message, Receive, Scope, Send, header

__all__ = ["Recording"]

_ids = random.Random()  # noqa: S311 (an id is no secret, and the system is slow to give numbers)
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Recording:
    """Sets `x-request-id` and scope["state"]["record"], and counts; the outermost guard.

    A caller's id is kept if it is 1 to 128 printable ASCII characters without blanks.
    ended: called once with every record, even if the client has hung up or a bug ended the answer.
    """

    def __init__(self, app: App, ended: Callable[[RequestRecord], None]) -> None:
        self._app, self._ended = app, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record, start = _new_record(scope), time.monotonic()
        state = scope.setdefault("state", {})
        state["request_id"], state["record"] = record.id, record
        watch = _Watch(record, receive, send)
        token = current_record.set(record)
        try:
            await self._app(scope, watch.receive, watch.send)
        finally:
            current_record.reset(token)
            for action in record.at_end:
                action()
            record.duration_s = time.monotonic() - start
            record.hung_up = watch.hung_up and not watch.complete
            record.route = record.route or _route(scope)
            self._ended(record)


class _Watch:
    """Counts what goes through a request's `receive` and `send`."""

    def __init__(self, record: RequestRecord, receive: Receive, send: Send) -> None:
        self._record, self._receive, self._send = record, receive, send
        self.hung_up = self.complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._record.bytes_in += len(message.get("body", b""))
        elif message["type"] == "http.disconnect":
            self.hung_up = True
        return message

    async def send(self, message: Message) -> None:
        record = self._record
        if message["type"] == "http.response.start":
            record.status = message["status"]
            headers = [h for h in message.get("headers", ()) if h[0].lower() != b"x-request-id"]
            message["headers"] = [*headers, (b"x-request-id", record.id.encode())]
        else:
            record.bytes_out += len(message.get("body", b""))
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = not self.hung_up


def _new_record(scope: Scope) -> RequestRecord:
    given = header(scope, b"x-request-id")
    sane = given is not None and _SANE_ID.fullmatch(given)
    client = scope.get("client")
    return RequestRecord(
        id=given.decode() if given and sane else f"{_ids.getrandbits(128):032x}",
        method=scope["method"],
        path=scope["path"],
        client=client[0] if client else "",
        started=time.time(),
    )


def _route(scope: Scope) -> str:
    """Return the template of the path, as the router noted it; "" if no route was reached."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    known = "endpoint" in scope and not scope.get("path_params")
    return str(scope["path"]) if known else ""
