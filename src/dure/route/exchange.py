"""Takes one request to an upstream and its answer back, byte for byte.

An answer that has begun is never begun elsewhere; until then, an upstream that fails or is busy is passed
over. A client that hangs up ends its request upstream. Refuses to know how upstreams are chosen.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from dure.errors import UsageError
from dure.http.access_log import RequestRecord, record_of
from dure.http.guards.access import owner_of
from dure.http.guards.asgi import Headers, Receive, Scope, Send, header, with_headers
from dure.http.guards.refusal import Refusal, refuse
from dure.route.addresses import MAY_LACK
from dure.route.answer_watch import AnswerWatch
from dure.route.client import Answer, UpstreamError
from dure.route.decision_log import DecisionLog, RoutedLine, RouteOutcome
from dure.route.dialects import RoutedRequest, read_request
from dure.route.headers import PRIVATE, REASON, TARGET, to_client, to_upstream
from dure.route.live_upstream import LiveUpstream
from dure.route.refusals import refusal_of
from dure.route.router import RoutePlan, Router

__all__ = ["Exchange"]

_PASSED_OVER = frozenset({401, 403, 429, 502, 503, 504})
_KEY_REFUSED = frozenset({401, 403})  # the router's own, of which a client need not know
_MOST_HELD_BYTES = 64 * 1024
_MOST_LOST = 2  # upstreams that broke off at one request: it may be what kills them


@dataclass(frozen=True)
class _Held:
    """An upstream's refusal, sent on if no other upstream is left."""

    status: int
    headers: Headers
    body: bytes
    target: str


class Exchange:
    """One request on its way. Call `run` once."""

    def __init__(
        self, router: Router, log: DecisionLog, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._router, self._log = router, log
        self._scope, self._receive, self._send = scope, receive, send
        self._record = record_of(scope) or RequestRecord("")
        self._path: str = scope["path"]
        self._held: _Held | None = None
        self._absent: _Held | None = None  # who said so lacks this address
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
            await refuse(self._send, Refusal(400, str(error)), self._path)
            return
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._end_when_gone(task))
        try:
            await self._answer(routed, watcher)
        except asyncio.CancelledError:
            if not self._is_gone:
                raise
            task.uncancel()
        finally:
            watcher.cancel()

    async def _end_when_gone(self, task: asyncio.Task[object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._is_gone = True
        task.cancel()

    async def _answer(self, routed: RoutedRequest, watcher: asyncio.Task[None]) -> None:
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
                watcher.cancel()
                await self._refuse(plan)
                return
            if await self._attempt(plan, watcher):
                return
            if not self._router.upstreams[plan.decision.target].addresses.lacks(self._path):
                skip.append(plan.decision.target)
            if self._n_lost == _MOST_LOST:
                watcher.cancel()
                text = f"the upstreams broke off at this request: {'; '.join(self._failures)}"
                await self._send_refusal(Refusal(502, text), "lost")
                return

    async def _refuse(self, plan: RoutePlan) -> None:
        """Answer that nobody does: with what the last upstream said, if it said anything."""
        self._write(plan, None)
        decision = plan.decision
        held = self._absent if decision.refusal == "no-dialect" else self._held
        if held is not None:
            await self._send_held(held, decision.refusal or "")
            return
        refusal = refusal_of(decision, plan.request, self._router.rules, self._failures)
        await self._send_refusal(refusal, decision.refusal or "")

    async def _send_held(self, held: _Held, code: str) -> None:
        headers = to_client(held.headers, held.target, code)
        await self._send({"type": "http.response.start", "status": held.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": held.body})

    async def _send_refusal(self, refusal: Refusal, code: str) -> None:
        send = with_headers(self._send, lambda: [(REASON, code.encode())])
        await refuse(send, refusal, self._path)

    # ---------------------------------------------------------------- one upstream

    async def _attempt(self, plan: RoutePlan, watcher: asyncio.Task[None]) -> bool:
        """Let the chosen upstream answer; return False if another one may be asked instead."""
        live = self._router.began(plan)
        load, start_s = len(live.places), time.monotonic()
        watch, answer, status, is_whole = AnswerWatch(start_s), None, 0, False
        try:
            if plan.facts[live.name].state in ("asleep", "off"):
                if not await self._router.started(live):
                    return False
                watch = AnswerWatch(time.monotonic())  # its start is no slowness
            answer = await self._sent(plan, live)
            if answer.status in _PASSED_OVER:
                await self._hold(live, answer)
                return False
            if answer.status in MAY_LACK:
                held = await self._not_there(live, answer)
                if held is None:
                    return False
                status, is_whole = answer.status, True
                watcher.cancel()
                await self._send_held(held, plan.decision.reason or "")
                return True
            piece = await answer.piece()
            status = answer.status
            is_whole = await self._pass_on(plan, answer, piece, watch, watcher)
            return True
        except UpstreamError as error:
            self._router.failed(live, error)
            self._failures.append(f"{live.name} {error}")
            self._n_lost += not error.unreachable
            return False
        finally:
            if answer is not None and not is_whole:
                answer.abort()
            self._router.ended(plan)
            busy_s = time.monotonic() - start_s
            self._settle(plan, live, watch, (status, is_whole), load=load, busy_s=busy_s)

    async def _sent(self, plan: RoutePlan, live: LiveUpstream) -> Answer:
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

    async def _hold(self, live: LiveUpstream, answer: Answer) -> None:
        """Keep an upstream's refusal, and let it rest."""
        body = await answer.body()
        wait = next((value for name, value in answer.headers if name == b"retry-after"), b"")
        self._router.refused(live, answer.status, float(wait) if wait.isdigit() else None)
        if answer.status not in _KEY_REFUSED and len(body) <= _MOST_HELD_BYTES:
            self._held = _Held(answer.status, answer.headers, body, live.name)

    async def _not_there(self, live: LiveUpstream, answer: UpstreamAnswer) -> _Held | None:
        """Return the answer; None if it says that the upstream lacks the address, which others may have."""
        body = await answer.body()
        held = _Held(answer.status, answer.headers, body, live.name)
        key = live.key_headers()
        if not await live.addresses.learn(live.client, key, self._path, answer.status, body):
            return held
        self._absent = held
        return None

    async def _pass_on(
        self,
        plan: RoutePlan,
        answer: Answer,
        piece: bytes,
        watch: AnswerWatch,
        watcher: asyncio.Task[None],
    ) -> bool:
        """Send an answer on as it comes; return whether it came to its end."""
        decision = plan.decision
        headers = to_client(answer.headers, decision.target, decision.reason or "")
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await self._send(start)
        while piece:
            watch.see(piece, time.monotonic())
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            try:
                piece = await answer.piece()
            except UpstreamError as error:
                self._router.failed(self._router.upstreams[decision.target], error)
                watcher.cancel()
                await self._break_off(answer, watch, f"{decision.target} {error}")
                return False
        watcher.cancel()
        await self._send({"type": "http.response.body", "body": b""})
        return True

    async def _break_off(self, answer: Answer, watch: AnswerWatch, why: str) -> None:
        """End an answer whose upstream is gone: a stream by an error, another one by cutting it short."""
        kind = next((value for name, value in answer.headers if name == b"content-type"), b"")
        if last := Refusal(502, f"the answer broke off: {why}").stream_end(self._path, kind):
            body = watch.line_end() + last
            await self._send({"type": "http.response.body", "body": body})

    # ---------------------------------------------------------------- afterwards

    def _settle(
        self,
        plan: RoutePlan,
        live: LiveUpstream,
        watch: AnswerWatch,
        end: tuple[int, bool],
        *,
        load: int,
        busy_s: float,
    ) -> None:
        """Learn from an answer, and write down how it went. end: its status, and whether it is whole."""
        status, is_whole = end
        believed = plan.facts[live.name].cached_tokens
        waited = load > live.parallel
        measured = watch.measured(load=load, waited=waited, believed_cached=believed)
        is_good = is_whole and status < 400
        if is_whole and status >= 500:
            self._router.refused(live, status, None)
        usd = 0.0
        if is_good:
            usd = self._router.answered(plan, live, measured, busy_s)
            self._note(plan, measured.prompt_tokens, measured.answer_tokens, watch.first_s)
        else:  # a rented machine was busy all the same, and tokens are paid that have come
            tokens = measured.prompt_tokens or plan.request.prompt_tokens
            counts = (tokens, measured.answer_tokens) if watch.n_bytes and status < 400 else (0, 0)
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
        self._record.extra["route_target"] = live.name
        self._record.extra["route_reason"] = plan.decision.reason or ""
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
