"""The application of a router, plain ASGI: which addresses are routed, and which it answers itself."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import PlainTextResponse, Response

from dure.http.access_log import record_of
from dure.http.guards.asgi import App, Receive, Scope, Send
from dure.http.guards.refusal import Refusal, refuse
from dure.http.problems import json_response
from dure.route.decision_log import DecisionLog
from dure.route.dialects import DIALECTS
from dure.route.exchange import Exchange
from dure.route.explaining import EXPLAIN, Explanations
from dure.route.feedback import FEEDBACK, Feedback
from dure.route.pages import OF_ONE_SERVER, page, template
from dure.route.router import Router

__all__ = ["Proxy"]

_NOTHING = Refusal(
    404,
    "there is nothing at this address: a router has the addresses of `dure serve`, but for those that are"
    " about one server",
)


class Proxy:
    """Routes requests to upstreams. own: the application of this very server, for all other addresses."""

    def __init__(self, router: Router, log: DecisionLog, own: App | None = None) -> None:
        self._router, self._log, self._own = router, log, own
        self._posts: Mapping[str, App] = {
            **dict.fromkeys(DIALECTS, self._exchange),
            EXPLAIN: Explanations(router),
            FEEDBACK: Feedback(router, log),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            return
        path, method = scope["path"], scope["method"]
        if method == "POST" and path in self._posts:
            _note(scope, path)
            await self._posts[path](scope, receive, send)
        elif method in ("GET", "HEAD") and (found := await self._page(path)) is not None:
            _note(scope, template(path))
            await found(scope, receive, send)
        elif self._own is not None:
            await self._own(scope, receive, send)
        else:
            await refuse(send, _NOTHING, path)

    async def _page(self, path: str) -> Response | None:
        if self._own is not None and path in OF_ONE_SERVER:
            return None
        if (found := await page(self._router, path)) is None:
            return None
        status, content = found
        return PlainTextResponse(content) if path == "/" else json_response(content, status)

    async def _exchange(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Exchange(self._router, self._log, scope, receive, send).run()


def _note(scope: Scope, route: str) -> None:
    """Note the template of the path, as others have their router do."""
    if (record := record_of(scope)) is not None:
        record.route = route
