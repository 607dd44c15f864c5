"""Decides about a prompt that is not sent, and tells every rule: in a running router, or without one.

A running router knows its queues and what caches hold; without one, all upstreams are asked how they are.
"""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Mapping

import msgspec

from dure.errors import UsageError
from dure.http.guards.access import OWN_KEY, owner_of
from dure.http.guards.asgi import Receive, Scope, Send
from dure.http.guards.refusal import Refusal, refuse
from dure.http.problems import json_response
from dure.http.registry import PAGE, running_servers
from dure.http.server_status import ask_server
from dure.route.decision import Decision
from dure.route.dialects import read_request
from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.learning import Learned
from dure.route.rented import reaching
from dure.route.router import Router
from dure.route.starting import Starter
from dure.route.upstream import RouteRules
from dure.route.watching import watching

__all__ = [
    "EXPLAIN",
    "Explanation",
    "Explanations",
    "Question",
    "explained",
    "explained_by_running",
]

EXPLAIN = "/route/explain"
_CHAT = "/v1/chat/completions"
_PODS_S = 20.0  # to see how rented pods are, and to reach those that run


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A chat of one message that nobody has sent.

    max_tokens: of the answer. key: the name of the caller's key. private: as its header says.
    """

    prompt: str
    model: str = ""
    max_tokens: int | None = None
    key: str = ""
    private: bool = False

    def body(self) -> bytes:
        """Return what the request would be."""
        messages = [{"role": "user", "content": self.prompt}]
        fields = {"model": self.model, "messages": messages, "max_tokens": self.max_tokens}
        return msgspec.json.encode(fields)


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """A decision, and what it was made from. router: the address of the running one that made it."""

    request: RequestFacts
    facts: Mapping[str, UpstreamFacts]
    decision: Decision
    router: str = ""


def explained(
    rules: RouteRules, learned: Learned, question: Question, starters: Mapping[str, Starter]
) -> Explanation:
    """Return what would be decided now, asking all upstreams how they are. Raises UsageError.

    starters: of a router with these rules; they start nothing here.
    """

    async def planned() -> Explanation:
        router = Router(rules, learned, starters)
        lives = list(router.upstreams.values())
        async with reaching(router, starters, _PODS_S), watching(lives):
            return await _explained(router, question)

    return asyncio.run(planned())


def explained_by_running(question: Question) -> Explanation | None:
    """Return what this user's running router would decide now, None if none runs."""
    for server in running_servers():
        if server.model == PAGE:  # it would hand the prompt on to another machine
            continue
        try:
            status, text = ask_server(server, EXPLAIN, msgspec.json.encode(question))
            if status == 200:
                found = msgspec.json.decode(text, type=Explanation)
                return msgspec.structs.replace(found, router=server.url)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError):
            continue  # it ends just now
    return None


class Explanations:
    """Answers `POST /route/explain`, for `dure route explain`."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request. Only this user's own commands may ask in the name of another key."""
        try:
            asked = msgspec.json.decode((await receive()).get("body", b""), type=Question)
            if (owner := owner_of(scope)) not in ("", OWN_KEY):
                asked = msgspec.structs.replace(asked, key=owner)
            found = await _explained(self._router, asked)
        except (msgspec.MsgspecError, UnicodeDecodeError, UsageError) as error:
            await refuse(send, Refusal(400, str(error)), scope["path"])
            return
        await json_response(msgspec.to_builtins(found))(scope, receive, send)


async def _explained(router: Router, question: Question) -> Explanation:
    routed = read_request(_CHAT, question.body(), tuple(router.upstreams))
    plan = await router.plan(routed, question.key, private=question.private)
    return Explanation(request=plan.request, facts=plan.facts, decision=plan.decision)
