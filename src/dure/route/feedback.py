"""Takes what a user says of an answer: `POST /route/feedback` with its id, and whether it did.

Knows the body and the answers of this address. Refuses to know what is learned from it.
"""

from __future__ import annotations

import msgspec

from dure.http.guards.access import owner_of
from dure.http.guards.asgi import Receive, Scope, Send
from dure.http.guards.refusal import Refusal, refuse
from dure.http.problems import json_response
from dure.route.decision_log import DecisionLog, JudgedLine
from dure.route.router import Router

__all__ = ["FEEDBACK", "Feedback"]

FEEDBACK = "/route/feedback"


class _Feedback(msgspec.Struct):
    """id: the header x-request-id of the answer. good: whether it did."""

    id: str
    good: bool


class Feedback:
    """The application of this address."""

    def __init__(self, router: Router, log: DecisionLog) -> None:
        self._router, self._log = router, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Learn from what a user says, and answer 200; 404 if no answer of this key waits for it."""
        body = (await receive()).get("body", b"")
        try:
            said = msgspec.json.decode(body, type=_Feedback)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            text = (
                'the body is no feedback: send {"id": "the answer\'s x-request-id", "good": false}'
            )
            await refuse(send, Refusal(400, text), FEEDBACK)
            return
        verdict = self._router.judging.said(said.id, owner_of(scope), good=said.good)
        if verdict is None:
            text = (
                f"no answer {said.id} waits to be judged: those of the last ten minutes do, that an"
                " upstream has given which is not the strongest, if difficulty is shadow or on"
            )
            await refuse(send, Refusal(404, text), FEEDBACK)
            return
        self._router.judged(verdict)
        self._log.write(JudgedLine.of(verdict))
        await json_response({"learned": True}, 200)(scope, receive, send)
