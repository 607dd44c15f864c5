"""Says why no upstream answers a request, as a status and a sentence.

Refuses to know shapes of errors: `Refusal` writes them for each dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dure.errors import context_error
from dure.http.guards.refusal import Refusal
from dure.route.decision import Decision, RefusalCode
from dure.route.facts import RequestFacts
from dure.route.upstream import RouteRules

__all__ = ["refusal_of"]

_RETRY_S = 10.0  # of an upstream that nobody knows when to expect

_STATUSES: Mapping[RefusalCode, int] = {
    "no-target": 404,
    "private": 403,
    "no-model": 404,
    "no-dialect": 404,
    "no-tools": 400,
    "no-vision": 400,
    "too-long": 400,
    "down": 503,
    "full": 429,
    "spent": 429,
}

_SENTENCES: Mapping[RefusalCode, str] = {
    "no-target": "there is no upstream {target!r}: there are {names}",
    "private": "this request stays in the house, and no upstream there can be asked",
    "no-model": "no upstream serves {model!r}: /v1/models lists what is served",
    "no-dialect": "no upstream that may answer this request has this address{whys}",
    "no-tools": "no upstream that may answer this request has tools",
    "no-vision": "no upstream that may answer this request reads images",
    "down": "no upstream answers now{whys}: try again later",
    "full": "all upstreams that may answer this request are full{whys}: try again later",
    "spent": "the money of today is spent{whys}: try again tomorrow",
}


def refusal_of(
    decision: Decision, request: RequestFacts, rules: RouteRules, failures: Sequence[str] = ()
) -> Refusal:
    """Return the answer to a request that nobody gets. failures: of upstreams that were asked."""
    assert decision.refusal is not None, "it is refused"
    status = _STATUSES[decision.refusal]
    retry_s = None
    if decision.refusal in ("down", "full"):
        retry_s = decision.retry_s or _RETRY_S
    return Refusal(status, _sentence(decision, request, rules, failures), retry_s)


def _sentence(
    decision: Decision, request: RequestFacts, rules: RouteRules, failures: Sequence[str]
) -> str:
    if decision.refusal == "too-long":
        return str(context_error(request.prompt_tokens, _longest(decision)))
    excluded = decision.lines[-1].excluded
    whys = "; ".join([*failures, *(f"{name} {why}" for name, why in excluded.items())])
    return _SENTENCES[decision.refusal or "down"].format(
        target=request.target,
        model=request.model,
        names=", ".join(one.name for one in rules.upstreams),
        whys=f" ({whys})" if whys else "",
    )


def _longest(decision: Decision) -> int:
    """Return the longest context of those that are too short, as their lines say it."""
    numbers = (why.partition(" ")[0] for why in decision.lines[-1].excluded.values())
    return max(int(number.replace(",", "")) for number in numbers)
