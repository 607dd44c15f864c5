"""Decides which upstream gets a request. One pure function, `decide`.

Hard rules come first, and each leaves a line: what it saw, and whom it excluded and why. Of those that
are left the one wins whose predicted finish time and price together are the least.
Refuses to know HTTP, clocks and files, so that a decision can be explained and made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.prediction import RoutePrediction, predict
from dure.route.upstream import RouteRules, Upstream

__all__ = ["Decision", "Reason", "RefusalCode", "RuleLine", "decide"]

Reason = Literal["explicit", "only", "overflow", "too-hard", "cached", "quickest", "thrifty"]
"""Why an upstream was chosen; these words are stable.

explicit: the request names it. only: no other was left. overflow: all in the house that could answer
are full. too-hard: weaker ones were passed over, as the question is thought to be hard for them. cached:
it has read the beginning of this prompt already, and would not have won otherwise. quickest: it finishes
first. thrifty: another finishes sooner, and costs more than the time is worth.
"""

RefusalCode = Literal[
    "no-target",
    "private",
    "no-model",
    "no-dialect",
    "no-tools",
    "no-vision",
    "too-long",
    "down",
    "full",
    "spent",
]
"""Which rule excluded the last upstream."""


class RuleLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule saw, and why it excluded each upstream that it did."""

    rule: str
    saw: str
    excluded: Mapping[str, str]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Who gets the request and why, or by which rule nobody does.

    predictions: of every upstream that no hard rule excluded. retry_s: when a refused one may try again.
    """

    target: str = ""
    reason: Reason | None = None
    refusal: RefusalCode | None = None
    retry_s: float | None = None
    lines: tuple[RuleLine, ...] = ()
    predictions: Mapping[str, RoutePrediction] = {}


class _Case(msgspec.Struct, frozen=True):
    """One request among the upstreams of one moment."""

    rules: RouteRules
    request: RequestFacts
    facts: Mapping[str, UpstreamFacts]
    predictions: Mapping[str, RoutePrediction]
    spent_usd: float


_Exclude = Callable[[_Case, Upstream], str]
"""Says why a rule excludes an upstream, "" if it does not."""


def decide(
    rules: RouteRules, request: RequestFacts, facts: Mapping[str, UpstreamFacts]
) -> Decision:
    """Return which upstream answers the request. facts: of every upstream of the rules, by name."""
    left = [one for one in rules.upstreams if one.name not in request.skip]
    predictions = {one.name: predict(request, one, facts[one.name]) for one in left}
    spent_usd = sum(one.spent_usd for one in facts.values())
    case = _Case(rules, request, facts, predictions, spent_usd)
    lines: list[RuleLine] = []
    later: list[Upstream] = []  # those that may answer it in a while
    full: list[Upstream] = []
    for name, code, saw, exclude in _RULES:
        excluded = {one.name: why for one in left if (why := exclude(case, one))}
        lines.append(RuleLine(rule=name, saw=saw(case), excluded=excluded))
        out = [one for one in left if one.name in excluded]
        full += out if code == "full" else []
        later += out if code in ("full", "down") else []
        left = [one for one in left if one.name not in excluded]
        if not left:
            refusal = "full" if code == "spent" and full else code
            has_failed = not out or request.target in request.skip
            return _refused(case, "down" if has_failed else refusal, later, tuple(lines))
    strong = _strongest(case, left)
    weaker = {one.name: f"strength {one.strength}" for one in left if one not in strong}
    lines.append(RuleLine(rule="difficulty", saw=_saw_difficulty(case), excluded=weaker))
    return _chosen(case, strong, full, tuple(lines))


# ---------------------------------------------------------------- hard rules


def _not_the_target(case: _Case, one: Upstream) -> str:
    return "not the one that is named" if case.request.target not in ("", one.name) else ""


def _outside(case: _Case, one: Upstream) -> str:
    return f"a {one.kind}" if case.request.private and not one.in_house else ""


def _without_model(case: _Case, one: Upstream) -> str:
    wanted, known = case.request.model, one.models or case.facts[one.name].models
    return f"serves {', '.join(known) or 'nothing that is known'}" if _lacks(wanted, known) else ""


def _lacks(wanted: str, known: Sequence[str]) -> bool:
    """Return whether no name is the wanted one; Ollama's clients may add `:latest`, or leave it out."""
    bare = wanted.removesuffix(":latest")
    return bool(wanted) and not {wanted, bare, f"{bare}:latest"} & {*known}


def _without_dialect(case: _Case, one: Upstream) -> str:
    return "" if case.facts[one.name].speaks else "has no such address"


def _without_tools(case: _Case, one: Upstream) -> str:
    return "has no tools" if case.request.tools and not one.tools else ""


def _without_vision(case: _Case, one: Upstream) -> str:
    return "reads no images" if case.request.vision and not one.vision else ""


def _too_short(case: _Case, one: Upstream) -> str:
    context = one.context or case.facts[one.name].context
    if context is None or case.request.prompt_tokens < context:
        return ""
    return f"{context:,} tokens of context"


def _down(case: _Case, one: Upstream) -> str:
    facts = case.facts[one.name]
    if facts.state == "cooling":
        return f"rests for {facts.ready_s:.0f} s: {facts.why}"
    if facts.state == "out" or (facts.state in ("asleep", "off") and one.start_s is None):
        return facts.why or "does not answer"
    return ""


def _full(case: _Case, one: Upstream) -> str:
    facts, limit_s = case.facts[one.name], case.rules.longest_wait_s
    queue_s = case.predictions[one.name].queue_s
    if facts.running >= facts.parallel and facts.waiting >= one.max_waiting:
        return f"{facts.waiting} wait already"
    return f"a wait of {queue_s:.0f} s" if queue_s > limit_s else ""


def _too_dear(case: _Case, one: Upstream) -> str:
    usd = case.predictions[one.name].usd
    if usd <= 0:
        return ""
    spent_there, daily_usd = case.facts[one.name].spent_usd, case.rules.daily_usd
    if one.daily_usd is not None and spent_there + usd > one.daily_usd:
        return f"${spent_there:.2f} of its ${one.daily_usd:.2f} are spent"
    if daily_usd is not None and case.spent_usd + usd > daily_usd:
        return f"${case.spent_usd:.2f} of ${daily_usd:.2f} are spent"
    return ""


def _saw_tokens(case: _Case) -> str:
    about = "" if case.request.exact else "about "
    return f"a prompt of {about}{case.request.prompt_tokens:,} tokens"


def _saw_states(case: _Case) -> str:
    return ", ".join(f"{name} {case.facts[name].state}" for name in case.predictions)


def _saw_queues(case: _Case) -> str:
    counts = ((name, case.facts[name]) for name in case.predictions)
    return ", ".join(f"{name} {one.running} running {one.waiting} waiting" for name, one in counts)


_RULES: tuple[tuple[str, RefusalCode, Callable[[_Case], str], _Exclude], ...] = (
    ("target", "no-target", lambda case: case.request.target or "none is named", _not_the_target),
    (
        "privacy",
        "private",
        lambda case: "stays in the house" if case.request.private else "may leave the house",
        _outside,
    ),
    ("model", "no-model", lambda case: case.request.model or "any", _without_model),
    ("dialect", "no-dialect", lambda case: case.request.dialect, _without_dialect),
    ("tools", "no-tools", lambda case: "wanted" if case.request.tools else "none", _without_tools),
    (
        "vision",
        "no-vision",
        lambda case: "images" if case.request.vision else "no images",
        _without_vision,
    ),
    ("context", "too-long", _saw_tokens, _too_short),
    ("health", "down", _saw_states, _down),
    ("queue", "full", _saw_queues, _full),
    ("money", "spent", lambda case: f"${case.spent_usd:.2f} spent today", _too_dear),
)
"""In the order in which they are asked; the refusal is of the one that excluded the last upstream."""


def _refused(
    case: _Case, code: RefusalCode, later: Sequence[Upstream], lines: tuple[RuleLine, ...]
) -> Decision:
    waits_s = [_retry_s(case, one) for one in later] if code in ("full", "down") else []
    return Decision(refusal=code, retry_s=min(waits_s, default=None), lines=lines)


def _retry_s(case: _Case, one: Upstream) -> float:
    """Return when an upstream that is excluded now may take the request."""
    facts, prediction = case.facts[one.name], case.predictions[one.name]
    return max(1.0, facts.ready_s, prediction.queue_s - case.rules.longest_wait_s)


# ---------------------------------------------------------------- difficulty


def _strongest(case: _Case, left: Sequence[Upstream]) -> Sequence[Upstream]:
    """Return who may answer a question of this difficulty: some of those that are left, at least one."""
    chance, rules = case.request.difficulty, case.rules
    if rules.difficulty != "on" or chance is None or chance < rules.difficulty_threshold:
        return left
    most = max(one.strength for one in left)
    return [one for one in left if one.strength == most]


def _saw_difficulty(case: _Case) -> str:
    chance = case.request.difficulty
    shadow = " (shadow)" if case.rules.difficulty == "shadow" else ""
    return "not guessed" if chance is None else f"{chance:.2f}{shadow}"


# ---------------------------------------------------------------- time and money


def _chosen(
    case: _Case, left: Sequence[Upstream], full: Sequence[Upstream], lines: tuple[RuleLine, ...]
) -> Decision:
    names = [one.name for one in left]
    best = min(left, key=lambda one: _price_s(case, case.predictions[one.name]))
    predictions = {name: case.predictions[name] for name in names}
    return Decision(
        target=best.name,
        reason=_reason(case, best, left, full, lines),
        lines=lines,
        predictions=predictions,
    )


def _price_s(case: _Case, prediction: RoutePrediction) -> float:
    """Return an answer's time and price as seconds: money counts as the time that it is worth."""
    return prediction.finish_s + prediction.usd / case.rules.worth_usd_per_s


def _reason(
    case: _Case,
    best: Upstream,
    left: Sequence[Upstream],
    full: Sequence[Upstream],
    lines: Sequence[RuleLine],
) -> Reason:
    if case.request.target:
        return "explicit"
    house_is_full = any(one.in_house for one in full) and not any(one.in_house for one in left)
    if house_is_full:
        return "overflow"
    if lines[-1].excluded:
        return "too-hard"
    if len(left) == 1:
        return "only"
    finishes = {one.name: case.predictions[one.name].finish_s for one in left}
    if finishes[best.name] > min(finishes.values()):
        return "thrifty"
    return "cached" if _won_by_cache(case, best, left) else "quickest"


def _won_by_cache(case: _Case, best: Upstream, left: Sequence[Upstream]) -> bool:
    facts = case.facts[best.name]
    if not facts.cached_tokens:
        return False
    uncached = predict(case.request, best, msgspec.structs.replace(facts, cached_tokens=0))
    price_s = _price_s(case, uncached)
    others = (one for one in left if one is not best)
    return any(_price_s(case, case.predictions[one.name]) < price_s for one in others)
