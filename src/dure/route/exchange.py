"""Takes one request to an upstream and its answer back, byte for byte.

An answer that has begun is never begun elsewhere; until then, an upstream that fails or is busy is passed
over. Comments in a stream are no beginning. A client that hangs up ends its request upstream.
Refuses to know how upstreams are chosen.
"""

from __future__ import annotations

import asyncio
import time

from dure.errors import UsageError
from dure.http.access_log import RequestRecord, record_of
from dure.http.guards.access import owner_of
from dure.http.guards.asgi import Receive, Scope, Send, header
from dure.http.guards.refusal import Refusal
from dure.route.addresses import MAY_LACK
from dure.route.answer_watch import AnswerWatch
from dure.route.client import ComingAnswer, UpstreamError
from dure.route.decision_log import DecisionLog, JudgedLine, RoutedLine, RouteOutcome
from dure.route.dialects import SHOW, RoutedRequest, read_request
from dure.route.headers import PRIVATE, TARGET, to_upstream
from dure.route.live_upstream import LiveUpstream
from dure.route.ollama_pages import shown
from dure.route.refusals import refusal_of
from dure.route.reply import HeldAnswer, Reply
from dure.route.router import RoutePlan, Router

__all__ = ["Exchange"]

_PASSED_OVER = frozenset({401, 403, 429, 502, 503, 504})
_KEY_REFUSED = frozenset({401, 403})  # the router's own, of which a client need not know
_MOST_HELD_BYTES = 64 * 1024
_MOST_LOST = 2  # upstreams that broke off at one request: it may be what kills them


class Exchange:
    """One request on its way. Call `run` once."""

    def __init__(
        self, router: Router, log: DecisionLog, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._router, self._log = router, log
        self._scope, self._receive = scope, receive
        self._record = record_of(scope) or RequestRecord("")
        self._path: str = scope["path"]
        self._reply = Reply(send, self._path)
        self._held: HeldAnswer | None = None
        self._absent: HeldAnswer | None = None  # who said so lacks this address
        self._is_gone = False
        self._n_lost = 0
        self._failures: list[str] = []

    async def run(self) -> None:
        """Answer the request."""
        body = (await self._receive()).get("body", b"")
        target = (header(self._scope, TARGET) or b"").decode("latin-1").strip()
        try:
            routed = read_request(self._path, body, tuple(self._router.upstreams), target)
        except UsageError as error:
            await self._reply.refuse(Refusal(400, str(error)), "")
            return
        task = asyncio.current_task()
        assert task is not None
        if self._path == SHOW and not routed.model and not routed.target:
            await self._reply.own(shown(self._router, ""))
            return
        watcher = asyncio.create_task(self._end_when_gone(task))
        try:
            await self._answer(routed)
        except asyncio.CancelledError:
            if not self._is_gone:
                raise
            task.uncancel()
        finally:
            watcher.cancel()

    async def _end_when_gone(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._reply.has_ended:
            self._is_gone = True
            task.cancel()

    async def _answer(self, routed: RoutedRequest) -> None:
        private = (header(self._scope, PRIVATE) or b"").strip().lower()
        skip: list[str] = []
        while True:
            plan = await self._router.plan(
                routed,
                owner_of(self._scope),
                private=private not in (b"", b"no", b"0", b"false"),
                skip=skip,
            )
            if plan.decision.refusal:
                await self._refuse(plan)
                return
            if await self._attempt(plan):
                return
            if not self._router.upstreams[plan.decision.target].addresses.lacks(self._path):
                skip.append(plan.decision.target)
            if self._n_lost == _MOST_LOST:
                text = f"the upstreams broke off at this request: {'; '.join(self._failures)}"
                await self._reply.refuse(Refusal(502, text), "lost")
                return

    async def _refuse(self, plan: RoutePlan) -> None:
        """Answer that nobody does: with what the last upstream said, if it said anything."""
        self._write(plan, None)
        decision = plan.decision
        if self._path == SHOW and decision.refusal == "no-dialect":
            await self._reply.own(shown(self._router, plan.request.model))
            return
        held = self._absent if decision.refusal == "no-dialect" else self._held
        if held is not None:
            await self._reply.whole(held, decision.refusal or "")
            return
        refusal = refusal_of(decision, plan.request, self._router.rules, self._failures)
        await self._reply.refuse(refusal, decision.refusal or "")

    # ---------------------------------------------------------------- one upstream

    async def _attempt(self, plan: RoutePlan) -> bool:
        """Let the chosen upstream answer; return False if another one may be asked instead."""
        live = self._router.began(plan)
        self._record.extra["route_target"] = live.name  # running requests are shown with it
        self._record.extra["route_reason"] = plan.decision.reason or ""
        waited, start_s = len(live.places) > live.parallel, time.monotonic()
        watch, answer, status, is_whole = self._watch(live, start_s), None, 0, False
        try:
            if plan.facts[live.name].state in ("asleep", "off"):
                if not await self._router.starts.started(live):
                    return False
                watch = self._watch(live, time.monotonic())  # its start is no slowness
            answer = await self._sent(plan, live)
            if answer.status in _PASSED_OVER:
                await self._hold(live, answer)
                return False
            is_at_once = answer.status in MAY_LACK or not self._reply.may_begin(answer)
            if is_at_once and not (is_whole := await self._whole(plan, answer, watch)):
                return False
            status = answer.status
            if not is_at_once:
                is_whole = await self._pass_on(plan, answer, watch)
            return True
        except UpstreamError as error:
            self._router.failed(live, error)
            self._failures.append(f"{live.name} {error}")
            self._n_lost += not error.unreachable
            return False
        finally:
            if answer is not None and not is_whole:
                answer.abort()
            watch.ended(time.monotonic())
            self._router.ended(plan)
            busy_s = time.monotonic() - start_s
            self._settle(plan, live, watch, (status, is_whole), waited=waited, busy_s=busy_s)

    def _watch(self, live: LiveUpstream, start_s: float) -> AnswerWatch:
        return AnswerWatch(start_s, live.places.busy)

    async def _sent(self, plan: RoutePlan, live: LiveUpstream) -> ComingAnswer:
        query = self._scope.get("query_string", b"")
        path = f"{self._path}?{query.decode('latin-1')}" if query else self._path
        routed = plan.routed
        model = routed.model or live.default_model
        headers = to_upstream(
            self._scope["headers"],
            live.key_headers(),
            self._record.id,
            private=plan.request.private,
        )
        return await live.client.send("POST", path, headers, routed.body(model), caller=self._scope)

    async def _hold(self, live: LiveUpstream, answer: ComingAnswer) -> None:
        """Keep an upstream's refusal, and let it rest."""
        body = await answer.body()
        wait = next((value for name, value in answer.headers if name == b"retry-after"), b"")
        self._router.refused(live, answer.status, float(wait) if wait.isdigit() else None)
        if answer.status not in _KEY_REFUSED and len(body) <= _MOST_HELD_BYTES:
            self._held = HeldAnswer(answer.status, answer.headers, body, live.name)

    async def _whole(self, plan: RoutePlan, answer: ComingAnswer, watch: AnswerWatch) -> bool:
        """Send an answer at once; return False if it says that the upstream lacks the address.

        Others may have it.
        """
        body, live = await answer.body(), self._router.upstreams[plan.decision.target]
        held = HeldAnswer(answer.status, answer.headers, body, live.name)
        if held.status in MAY_LACK:
            key, learn = live.key_headers(), live.addresses.learn
            if await learn(live.client, key, self._path, held.status, body):
                self._absent = held
                return False
        watch.see(body, time.monotonic())
        await self._reply.whole(held, plan.decision.reason or "")
        return True

    async def _pass_on(self, plan: RoutePlan, answer: ComingAnswer, watch: AnswerWatch) -> bool:
        """Send an answer on as it comes; return whether it came to its end.

        Raises UpstreamError if it broke off and another upstream may answer instead.
        """
        decision, reply = plan.decision, self._reply
        piece = await answer.piece()
        await reply.begin(answer.status, answer.headers, decision.target, decision.reason or "")
        while piece:
            had_begun = watch.has_begun
            watch.see(piece, time.monotonic())
            if watch.has_begun and not had_begun:
                self._router.text_began(plan)
            await reply.piece(piece)
            try:
                piece = await answer.piece()
            except UpstreamError as error:
                if reply.is_open and not watch.has_begun:
                    raise
                self._router.failed(self._router.upstreams[decision.target], error)
                await reply.break_off(f"the answer broke off: {decision.target} {error}")
                return False
        await reply.end()
        return True

    # ---------------------------------------------------------------- afterwards

    def _settle(
        self,
        plan: RoutePlan,
        live: LiveUpstream,
        watch: AnswerWatch,
        end: tuple[int, bool],
        *,
        waited: bool,
        busy_s: float,
    ) -> None:
        """Learn from an answer, and write down how it went. end: its status, and whether it is whole."""
        status, is_whole = end
        believed = plan.facts[live.name].cached_tokens
        measured = watch.measured(waited=waited, believed_cached=believed)
        is_good = is_whole and status < 400
        if is_whole and status >= 500:
            self._router.refused(live, status, None)
        usd = 0.0
        if is_good:
            usd = self._router.answered(plan, live, measured, busy_s)
            self._note(plan, measured.prompt_tokens, measured.answer_tokens, watch.first_s)
        else:  # a rented machine was busy all the same, and tokens are paid that have come
            tokens = measured.prompt_tokens or plan.request.prompt_tokens
            counts = (
                (tokens, measured.answer_tokens) if watch.has_begun and status < 400 else (0, 0)
            )
            usd = self._router.paid(live, busy_s, *counts)
        outcome = RouteOutcome(
            status=status,
            whole=is_whole,
            first_s=round(watch.first_s, 4),
            finish_s=round(busy_s, 4),
            prompt_tokens=measured.prompt_tokens,
            answer_tokens=measured.answer_tokens if is_good else 0,
            cached_tokens=measured.cached_tokens,
            usd=usd,
        )
        if is_good:
            for verdict in self._router.verdicts(plan, self._record.id):
                self._router.judged(verdict)
                self._log.write(JudgedLine.of(verdict))
        self._write(plan, outcome)

    def _note(
        self, plan: RoutePlan, prompt_tokens: int, answer_tokens: int, first_s: float
    ) -> None:
        record = self._record
        record.model = plan.routed.model
        record.prompt_tokens = prompt_tokens or plan.request.prompt_tokens
        record.completion_tokens = answer_tokens
        record.ttft_s = first_s

    def _write(self, plan: RoutePlan, outcome: RouteOutcome | None) -> None:
        self._log.write(
            RoutedLine.of(
                (self._record.id, self._path), plan.request, plan.facts, plan.decision, outcome
            )
        )
