"""Decides again what a log has, by other rules: what would have gone elsewhere, and for how much.

Pure. Both sides are predictions, made by today's arithmetic from the facts of that moment: real times are
known for one side only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from dure.route.decision import Decision, decide
from dure.route.decision_log import RoutedLine
from dure.route.facts import RequestFacts, UpstreamFacts, UpstreamSpeed
from dure.route.upstream import RouteRules, Upstream

__all__ = ["Replay", "replayed"]


class Replay(msgspec.Struct, kw_only=True):
    """How other rules would have routed a log.

    moves: from whom, to whom ("refused" for nobody), and how many. The sums are of requests that both
    would have answered, n_both of them; *_before is as it was decided.
    """

    n_requests: int = 0
    n_both: int = 0
    finish_s_before: float = 0.0
    finish_s: float = 0.0
    usd_before: float = 0.0
    usd: float = 0.0
    moves: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)

    @property
    def n_moved(self) -> int:
        """The requests that go elsewhere."""
        return sum(count for (before, after), count in self.moves.items() if before != after)


def replayed(lines: Iterable[RoutedLine], rules: RouteRules) -> Replay:
    """Return how the rules would have routed the requests of a log."""
    found = Replay()
    for line in lines:
        request = _under(rules, line.request)
        decision = decide(rules, request, _facts(rules, line.facts))
        found.n_requests += 1
        found.moves[line.target or "refused", decision.target or "refused"] += 1
        _add(found, line, decision)
    return found


def _under(rules: RouteRules, request: RequestFacts) -> RequestFacts:
    """Return a request as the rules see it: they may keep its key's requests in the house."""
    return msgspec.structs.replace(
        request, private=request.private or rules.is_private(request.key)
    )


def _facts(rules: RouteRules, logged: Mapping[str, UpstreamFacts]) -> dict[str, UpstreamFacts]:
    return {one.name: logged.get(one.name) or _believed(one) for one in rules.upstreams}


def _believed(upstream: Upstream) -> UpstreamFacts:
    """Return what is believed of an upstream that the log does not know: it is up and idle."""
    speed = UpstreamSpeed(prompt_per_s=upstream.prompt_per_s, answer_per_s=upstream.answer_per_s)
    return UpstreamFacts(speed=speed, parallel=upstream.parallel or 1, models=upstream.models)


def _add(found: Replay, line: RoutedLine, decision: Decision) -> None:
    before = line.predictions.get(line.target)
    after = decision.predictions.get(decision.target)
    if before is not None and after is not None:
        found.n_both += 1
        found.finish_s_before += before.finish_s
        found.finish_s += after.finish_s
        found.usd_before += before.usd
        found.usd += after.usd
