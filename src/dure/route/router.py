"""Routes requests: gathers the facts, decides, and learns from how each answer went.

The only place that knows all upstreams as they are. Refuses to know HTTP: `proxy` sends what is decided
here, and tells how it went.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from dure.route.answer_lengths import AnswerKind
from dure.route.client import Client, UpstreamError
from dure.route.counting import count_tokens
from dure.route.decision import Decision, decide
from dure.route.dialects import RoutedRequest
from dure.route.difficulty import features
from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.judging import AnswerVerdict, Judging, WeakAnswer
from dure.route.learning import Learned, Measured
from dure.route.live_upstream import LiveUpstream
from dure.route.prediction import alone_s, predict
from dure.route.prefixes import prefix_hashes
from dure.route.starting import Starter
from dure.route.starts import UpstreamStarts
from dure.route.upstream import RouteRules
from dure.route.watching import look

__all__ = ["RoutePlan", "Router"]

_NEAR = 1.5  # a prompt may be this much longer or shorter than its estimate


class RoutePlan(msgspec.Struct, kw_only=True):
    """A decision about one request, and what it was made from."""

    routed: RoutedRequest
    request: RequestFacts
    facts: Mapping[str, UpstreamFacts]
    decision: Decision
    hashes: Sequence[bytes]
    kind: AnswerKind
    features: tuple[int, ...] = ()


class Router:
    """Chooses among upstreams, whose order is that of the rules."""

    def __init__(
        self,
        rules: RouteRules,
        learned: Learned,
        starters: Mapping[str, Starter] | None = None,
        here: Client | None = None,
    ) -> None:
        """starters: what starts an upstream, by its name. here: the way to this process' own model.

        Raises UsageError for unreadable keys.
        """
        self.rules, self.learned = rules, learned
        self.upstreams = {
            one.name: LiveUpstream(one, rules, learned.upstream(one.name), here)
            for one in rules.upstreams
        }
        self.judging = Judging()
        self.starts = UpstreamStarts(starters or {})

    # ---------------------------------------------------------------- deciding

    async def plan(
        self, routed: RoutedRequest, key: str, *, private: bool, skip: Sequence[str] = ()
    ) -> RoutePlan:
        """Decide who answers a request. private: its header says so. skip: who has failed already."""
        await self.look_here()
        hashes = prefix_hashes(routed.prompt)
        facts = self._facts(routed, hashes)
        kind = AnswerKind(
            routed.model, key, routed.most, len(routed.prompt), hashes[0].hex() if hashes else ""
        )
        request = self._request(routed, kind, private, skip)
        found = self._features(routed)
        if found and self.learned.difficulty.is_known:
            chance = round(self.learned.difficulty.chance(found), 3)
            request = msgspec.structs.replace(request, difficulty=chance)
        if routed.dialect.count and self._is_near_a_limit(request):
            exact = await count_tokens(self._counters(facts), routed)
            if exact is not None:
                request = msgspec.structs.replace(request, prompt_tokens=exact, exact=True)
        decision = decide(self.rules, request, facts)
        return RoutePlan(
            routed=routed,
            request=request,
            facts=facts,
            decision=decision,
            hashes=hashes,
            kind=kind,
            features=found,
        )

    async def look_here(self) -> None:
        """Ask this process' own model how it is, if it was not up: that takes no time."""
        for one in self.upstreams.values():
            if one.upstream.is_here and one.health.status != "up":
                await look(one)

    def _features(self, routed: RoutedRequest) -> tuple[int, ...]:
        """Return what a guess about a question is made from; nothing if none is wanted."""
        wanted = self.rules.difficulty != "off" and routed.dialect.answers
        return features(routed.question()) if wanted else ()

    def _request(
        self, routed: RoutedRequest, kind: AnswerKind, private: bool, skip: Sequence[str]
    ) -> RequestFacts:
        dialect = routed.dialect
        return RequestFacts(
            dialect=dialect.name,
            model=routed.model,
            prompt_tokens=self.learned.tokens.expected(routed.model, len(routed.prompt)),
            answer_tokens=self.learned.lengths.expected(kind) if dialect.answers else 0,
            tools=routed.tools,
            vision=routed.vision,
            key=kind.key,
            private=private or self.rules.is_private(kind.key),
            target=routed.target,
            skip=tuple(skip),
        )

    def _facts(self, routed: RoutedRequest, hashes: Sequence[bytes]) -> dict[str, UpstreamFacts]:
        n_bytes = len(routed.prompt)
        tokens = self.learned.tokens.expected(routed.model, n_bytes)
        per_byte = tokens / n_bytes if n_bytes else 0.0
        today = _today()
        return {
            name: live.facts(routed.path, hashes, per_byte, self.learned.spent(name, today))
            for name, live in self.upstreams.items()
        }

    def _is_near_a_limit(self, request: RequestFacts) -> bool:
        limits = (one.context for one in self.upstreams.values())
        tokens = request.prompt_tokens
        return any(one and one / _NEAR < tokens < one * _NEAR for one in limits)

    def _counters(self, facts: Mapping[str, UpstreamFacts]) -> list[LiveUpstream]:
        """Return whom to ask for a count: those in the house that answer."""
        return [
            one
            for one in self.upstreams.values()
            if one.upstream.in_house and facts[one.name].state == "up"
        ]

    def serving(self) -> dict[str, list[LiveUpstream]]:
        """Return who serves each model, in the order of the rules; `auto` is served by all."""
        found: dict[str, list[LiveUpstream]] = {"auto": list(self.upstreams.values())}
        for live in self.upstreams.values():
            for name in live.models:
                found.setdefault(name, []).append(live)
        return found

    def spent_today(self, name: str) -> float:
        """Return what an upstream's answers have cost today, dollars."""
        return self.learned.spent(name, _today())

    def priced(self, name: str, usd_per_hour: float) -> None:
        """Take over what a rented machine costs now: another one may have got its name."""
        live = self.upstreams[name]
        if usd_per_hour == live.upstream.usd_per_hour:
            return
        live.upstream = msgspec.structs.replace(live.upstream, usd_per_hour=usd_per_hour)
        upstreams = tuple(self.upstreams[one.name].upstream for one in self.rules.upstreams)
        self.rules = msgspec.structs.replace(self.rules, upstreams=upstreams)

    # ---------------------------------------------------------------- sending

    def began(self, plan: RoutePlan) -> LiveUpstream:
        """Note that a request is sent, and return its upstream."""
        live = self.upstreams[plan.decision.target]
        prediction = plan.decision.predictions[live.name]
        prompt_s, answer_s = alone_s(plan.request, plan.facts[live.name])
        before_s = prediction.start_s + prompt_s
        live.places.take(id(plan), time.monotonic(), before_s, answer_s)
        live.promised_usd += prediction.usd
        return live

    def text_began(self, plan: RoutePlan) -> None:
        """Note that the text of a request's answer has begun: its prompt is read."""
        self.upstreams[plan.decision.target].places.began(id(plan), time.monotonic())

    def ended(self, plan: RoutePlan) -> None:
        """Note that the request that began has ended, however it went."""
        live = self.upstreams[plan.decision.target]
        live.places.leave(id(plan), time.monotonic())
        usd = plan.decision.predictions[live.name].usd
        live.promised_usd = max(0.0, live.promised_usd - usd)

    # ---------------------------------------------------------------- learning

    def judged(self, verdict: AnswerVerdict) -> None:
        """Learn whether a weaker upstream's answer did."""
        self.learned.difficulty.observe(verdict.asked.features, good=verdict.good)

    def verdicts(self, plan: RoutePlan, request_id: str) -> list[AnswerVerdict]:
        """Return what is known now of earlier answers, and note this request's, which is whole."""
        now_s, live = time.monotonic(), self.upstreams[plan.decision.target]
        if not plan.features:
            return []
        found = list(self.judging.content(now_s))
        prompt = hashlib.blake2b(plan.routed.prompt, digest_size=8).digest()
        key, strength = plan.request.key, live.upstream.strength
        is_named = bool(plan.routed.target or plan.routed.model)
        if is_named and (again := self.judging.asked_again(prompt, key, strength)):
            found.append(again)
        if self.rules.is_weak(live.upstream):
            chance = self.learned.difficulty.chance(plan.features)
            asked = WeakAnswer(request_id, key, prompt, strength, plan.features, round(chance, 3))
            self.judging.answered(asked, now_s)
        return found

    def failed(self, live: LiveUpstream, error: UpstreamError) -> None:
        """Note that an upstream failed to answer."""
        if error.unreachable:
            live.health = live.health.unreachable(str(error))
        else:
            live.health = live.health.failed(time.monotonic(), str(error))

    def refused(self, live: LiveUpstream, status: int, retry_s: float | None) -> None:
        """Note that an upstream answered that it cannot: 429 or 503, or another fault of its own."""
        now_s = time.monotonic()
        if status in (429, 503):
            live.health = live.health.busy(now_s, retry_s or 1.0)
        elif status in (401, 403):
            live.health = live.health.failed(now_s, "refuses the router's key")
        else:
            live.health = live.health.failed(now_s, f"answered {status}")

    def answered(
        self, plan: RoutePlan, live: LiveUpstream, measured: Measured, busy_s: float
    ) -> float:
        """Learn from a whole answer, and return what it cost, dollars. busy_s: with the start."""
        live.health = live.health.answered()
        live.prefixes.add(plan.hashes)
        routed = plan.routed
        prompt_tokens = measured.prompt_tokens or plan.request.prompt_tokens
        usd = self.paid(live, busy_s, prompt_tokens, measured.answer_tokens)
        self.learned.tokens.observe(routed.model, len(routed.prompt), measured.prompt_tokens)
        if routed.dialect.answers and measured.answer_tokens:
            whole = msgspec.structs.replace(measured, prompt_tokens=prompt_tokens)
            self._observe_late(plan, live, whole)
            live.learned.observe(whole, live.upstream)
            self.learned.lengths.observe(plan.kind, measured.answer_tokens)
        return usd

    def _observe_late(self, plan: RoutePlan, live: LiveUpstream, measured: Measured) -> None:
        """Compare an answer that did not wait with its prediction, had the counts of tokens been known."""
        facts = plan.facts[live.name]
        known = msgspec.structs.replace(
            plan.request,
            prompt_tokens=measured.new_tokens + facts.cached_tokens,
            answer_tokens=measured.answer_tokens,
        )
        if not facts.turn_s:
            predicted = predict(known, live.upstream, facts)
            live.learned.observe_late(predicted.prompt_s + predicted.answer_s, measured.total_s)

    def paid(self, live: LiveUpstream, seconds: float, prompt_tokens: int, n_answer: int) -> float:
        """Note what an answer cost, whole or not, and return it in dollars."""
        usd = live.upstream.usd(seconds, prompt_tokens, n_answer)
        if usd:
            self.learned.spend(live.name, usd, _today())
        return usd


def _today() -> str:
    return datetime.now().astimezone().strftime("%Y-%m-%d")
