"""Predicts when an upstream will have answered, and what that costs. Pure arithmetic.

Refuses to know rules: it says how long and how much, `decision` says whether.
"""

from __future__ import annotations

import msgspec

from dure.route.crowding import duration_s
from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.upstream import Upstream

__all__ = ["RoutePrediction", "alone_s", "predict"]


class RoutePrediction(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an answer's time, and its price.

    start_s: until the upstream takes requests; queue_s: until it is this request's turn.
    """

    start_s: float
    queue_s: float
    prompt_s: float
    answer_s: float
    usd: float

    @property
    def finish_s(self) -> float:
        """From now to the answer's end."""
        return self.start_s + self.queue_s + self.prompt_s + self.answer_s


def predict(request: RequestFacts, upstream: Upstream, facts: UpstreamFacts) -> RoutePrediction:
    """Return when the upstream will have answered the request, if it gets it now, and for how much."""
    speed, beside = facts.speed, facts.beside
    prompt_alone_s, answer_alone_s = alone_s(request, facts)
    start_s = _start_s(upstream, facts)
    prompt_s = duration_s(prompt_alone_s * speed.late, speed.prompt_crowd, 0.0, beside)
    answer_s = duration_s(answer_alone_s * speed.late, speed.answer_crowd, prompt_s, beside)
    paid_s = prompt_s + answer_s + (start_s if facts.state == "off" else 0.0)
    return RoutePrediction(
        start_s=start_s,
        queue_s=facts.turn_s,
        prompt_s=prompt_s,
        answer_s=answer_s,
        usd=upstream.usd(paid_s, request.prompt_tokens, request.answer_tokens),
    )


def alone_s(request: RequestFacts, facts: UpstreamFacts) -> tuple[float, float]:
    """Return how long its prompt and its answer take if the upstream has nothing else to do."""
    speed = facts.speed
    n_new = max(0, request.prompt_tokens - facts.cached_tokens)
    prompt_s = speed.overhead_s + n_new / speed.prompt_per_s
    return prompt_s, request.answer_tokens / speed.answer_per_s


def _start_s(upstream: Upstream, facts: UpstreamFacts) -> float:
    if facts.state in ("asleep", "off"):
        return facts.start_s or upstream.start_s or 0.0
    return facts.ready_s
