"""Hands every request on to one server, with its key, and the answer back as it comes.

For `dure ui`: a browser on this machine sees a server elsewhere, and never its key. Refuses to choose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from dure.http.access_log import record_of
from dure.http.guards.access import key_of
from dure.http.guards.asgi import Headers, Receive, Scope, Send
from dure.http.guards.refusal import Refusal, refuse
from dure.route.client import Client, UpstreamError
from dure.route.headers import key_headers, to_browser, to_upstream

__all__ = ["Forwarding"]

_ROUTE = "/{path:path}"  # of all requests, for the record


class Forwarding:
    """Forwards to one server. name: how errors call it.

    key: what the server wants, "" if nothing. It is shown for requests that came with a key of this very
    process; others, to addresses that are open, go without.
    """

    def __init__(self, client: Client, name: str, key: str) -> None:
        self._client, self._name = client, name
        self._key = key_headers(key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            return
        if (record := record_of(scope)) is not None:
            record.route = _ROUTE
        body = (await receive()).get("body", b"")
        answering = asyncio.create_task(self._answer(scope, body, send))
        gone = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()  # raises what is a bug
        finally:
            answering.cancel()
            gone.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        record = record_of(scope)
        query = scope.get("query_string", b"").decode("latin-1")
        key = self._key if key_of(scope) is not None else []  # open paths are, without it
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        headers = to_upstream(
            _without_origin(scope["headers"]), key, record.id if record else "", private=False
        )
        target = f"{path}?{query}" if query else path
        try:
            answer = await self._client.send(scope["method"], target, headers, body)
        except UpstreamError as error:
            await refuse(send, Refusal(502, f"{self._name} {error}", 2.0), scope["path"])
            return
        try:
            start = {"type": "http.response.start", "status": answer.status}
            await send({**start, "headers": to_browser(answer.headers)})
            while scope["method"] != "HEAD" and (piece := await answer.piece()):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except UpstreamError:
            pass  # the body stays short, and the browser sees that
        finally:
            answer.abort()


def _without_origin(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers without those that say which page asks: there it would be another address."""
    return [one for one in headers if one[0] not in (b"origin", b"referer")]


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
