"""The decision, as a function: what it promises for every request, every rule and every state."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dure.route.crowding import Beside, Crowd
from dure.route.decision import Decision, decide
from dure.route.facts import RequestFacts, UpstreamFacts, UpstreamSpeed
from dure.route.upstream import RouteRules, Upstream

NAMES = ("board", "cluster", "pod")
NAMED = st.sampled_from(("", *NAMES))
USD = st.sampled_from((0.0, 0.2, 1.0, 40.0))

crowds = st.builds(
    Crowd, answer=st.floats(0, 2), prompt=st.floats(0, 2), any_prompt=st.floats(0, 9)
)
speeds = st.builds(
    UpstreamSpeed,
    prompt_per_s=st.floats(1, 1e4),
    answer_per_s=st.floats(0.1, 1e3),
    overhead_s=st.floats(0, 5),
    prompt_crowd=crowds,
    answer_crowd=crowds,
)
facts_of_one = st.builds(
    UpstreamFacts,
    state=st.sampled_from(("up", "up", "up", "loading", "asleep", "off", "cooling", "out")),
    speed=speeds,
    ready_s=st.floats(0, 100),
    running=st.integers(0, 8),
    waiting=st.integers(0, 20),
    parallel=st.integers(1, 8),
    turn_s=st.floats(0, 300),
    beside=st.builds(
        Beside,
        read_s=st.lists(st.floats(0, 60), max_size=2).map(sorted).map(tuple),
        ends_s=st.lists(st.floats(60, 300), min_size=2, max_size=5).map(sorted).map(tuple),
    ),
    cached_tokens=st.integers(0, 5000),
    speaks=st.sampled_from((True, True, False)),
    models=st.sampled_from((("small",), ("small", "large"), ("large",))),
    context=st.sampled_from((None, 2048, 32768)),
    spent_usd=USD,
)
requests = st.builds(
    RequestFacts,
    dialect=st.just("chat"),
    model=st.sampled_from(("", "", "small", "large", "none")),
    prompt_tokens=st.integers(0, 40000),
    answer_tokens=st.integers(0, 5000),
    tools=st.booleans(),
    vision=st.sampled_from((False, False, True)),
    private=st.booleans(),
    target=NAMED,
)


@st.composite
def upstreams(draw: st.DrawFn, name: str) -> Upstream:
    kind = "house" if name != "pod" else draw(st.sampled_from(("pod", "cloud")))
    return Upstream(
        name=name,
        url="http://x",
        kind=kind,  # type: ignore[arg-type]  # one of Kind
        tools=draw(st.booleans()),
        vision=draw(st.booleans()),
        usd_per_hour=draw(USD),
        usd_per_million_answer_tokens=draw(USD),
        daily_usd=draw(st.sampled_from((None, 0.5))),
        start_s=draw(st.sampled_from((None, 40.0))),
    )


rules_of_all = st.builds(
    RouteRules,
    worth_usd_per_s=st.sampled_from((0.0001, 0.001, 0.1)),
    daily_usd=st.sampled_from((None, 1.0, 3.0)),
    longest_wait_s=st.sampled_from((1.0, 120.0)),
    upstreams=st.tuples(*map(upstreams, NAMES)),
)
facts_of_all = st.fixed_dictionaries(dict.fromkeys(NAMES, facts_of_one))
SPEED = UpstreamSpeed(prompt_per_s=100, answer_per_s=10)
IDLE = UpstreamFacts(speed=SPEED, models=("small",), context=8192)


def upstream(name: str, **more: Any) -> Upstream:
    return Upstream(**{"name": name, "url": "http://x", "kind": "house", **more})


def chosen(decision: Decision) -> str:
    return decision.target or str(decision.refusal)


# ---------------------------------------------------------------- for every request


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all)
def test_somebody_is_chosen_or_a_rule_says_why_nobody(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts]
) -> None:
    """Each upstream is excluded by one rule, or predicted; a refusal excludes them all."""
    decision = decide(rules, request, facts)
    excluded = [name for line in decision.lines for name in line.excluded]
    assert len(excluded) == len(set(excluded))
    if decision.refusal:
        assert not decision.target
        assert set(excluded) == set(NAMES)
    else:
        assert decision.reason
        assert decision.target in decision.predictions
        assert {*excluded, *decision.predictions} == set(NAMES)


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all)
def test_a_private_request_never_leaves_the_house(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts]
) -> None:
    """However quick, idle and cheap the pod is, and even if the request names it."""
    private = msgspec.structs.replace(request, private=True)
    target = decide(rules, private, facts).target
    found = rules.upstream(target)
    assert found is None or found.in_house


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all)
def test_a_named_target_answers_or_nobody_does(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts]
) -> None:
    """Another one never answers in its place."""
    assume(request.target)
    assert decide(rules, request, facts).target in ("", request.target)


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all)
def test_who_answers_is_able_to(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts]
) -> None:
    """It has the model, the tools and the eyes, the prompt fits, and it can be reached."""
    target = decide(rules, request, facts).target
    assume(target)
    one, now = rules.upstream(target), facts[target]
    assert one is not None
    assert request.model in ("", *now.models)
    assert one.tools or not request.tools
    assert one.vision or not request.vision
    assert now.context is None or request.prompt_tokens < now.context
    assert now.state in ("up", "loading") or (
        now.state not in ("cooling", "out") and one.start_s is not None
    )


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all)
def test_no_ceiling_of_money_is_passed(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts]
) -> None:
    """What is spent and what the answer would cost stay below the day's ceilings, its own and all's."""
    decision = decide(rules, request, facts)
    assume(decision.target)
    usd = decision.predictions[decision.target].usd
    one = rules.upstream(decision.target)
    assert one is not None
    if usd:
        assert one.daily_usd is None or facts[one.name].spent_usd + usd <= one.daily_usd
        spent_usd = sum(now.spent_usd for now in facts.values())
        assert rules.daily_usd is None or spent_usd + usd <= rules.daily_usd


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all, st.floats(1, 50), st.integers(0, 5000))
def test_who_gets_better_keeps_its_place(
    rules: RouteRules,
    request: RequestFacts,
    facts: dict[str, UpstreamFacts],
    quicker: float,
    more_cached: int,
) -> None:
    """Quicker, with more of the prompt in its cache, with a shorter queue: it is chosen still."""
    target = decide(rules, request, facts).target
    assume(target)
    now = facts[target]
    speed = msgspec.structs.replace(
        now.speed,
        prompt_per_s=now.speed.prompt_per_s * quicker,
        answer_per_s=now.speed.answer_per_s * quicker,
        overhead_s=now.speed.overhead_s / quicker,
    )
    better = msgspec.structs.replace(
        now,
        speed=speed,
        cached_tokens=now.cached_tokens + more_cached,
        waiting=now.waiting // 2,
        turn_s=now.turn_s / quicker,
    )
    assert decide(rules, request, {**facts, target: better}).target == target


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all, st.floats(0, 1))
def test_who_gets_cheaper_keeps_its_place(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts], less: float
) -> None:
    """A lower price never costs an upstream a request."""
    target = decide(rules, request, facts).target
    assume(target)

    def cheaper(one: Upstream) -> Upstream:
        if one.name != target:
            return one
        prices = {
            "usd_per_hour": one.usd_per_hour * less,
            "usd_per_million_answer_tokens": one.usd_per_million_answer_tokens * less,
        }
        return msgspec.structs.replace(one, **prices)

    others = msgspec.structs.replace(rules, upstreams=tuple(map(cheaper, rules.upstreams)))
    assert decide(others, request, facts).target == target


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all)
def test_without_money_the_quickest_is_chosen(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts]
) -> None:
    """No upstream that is left would have finished sooner."""
    free = [
        msgspec.structs.replace(one, usd_per_hour=0.0, usd_per_million_answer_tokens=0.0)
        for one in rules.upstreams
    ]
    decision = decide(msgspec.structs.replace(rules, upstreams=tuple(free)), request, facts)
    assume(decision.target)
    finishes = {name: one.finish_s for name, one in decision.predictions.items()}
    assert finishes[decision.target] == min(finishes.values())


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all, st.permutations(NAMES))
def test_the_order_decides_equal_ones_only(
    rules: RouteRules, request: RequestFacts, facts: dict[str, UpstreamFacts], order: list[str]
) -> None:
    """In another order the price of the choice is the same."""
    by_name = {one.name: one for one in rules.upstreams}
    other = msgspec.structs.replace(rules, upstreams=tuple(by_name[name] for name in order))
    first, second = decide(rules, request, facts), decide(other, request, facts)
    assert bool(first.target) == bool(second.target)
    if first.target != second.target:
        prices = [
            decision.predictions[decision.target].finish_s
            + decision.predictions[decision.target].usd / rules.worth_usd_per_s
            for decision in (first, second)
        ]
        assert prices[0] == prices[1]


# ---------------------------------------------------------------- reasons, one by one


def test_a_pod_is_worth_its_money_for_long_work_only() -> None:
    """A short chat stays at home though the pod is quicker; a long one goes, and the reason says which."""
    rules = RouteRules(
        worth_usd_per_s=0.001,
        upstreams=(upstream("board"), upstream("pod", kind="pod", usd_per_hour=36.0)),
    )
    quick = msgspec.structs.replace(IDLE, speed=UpstreamSpeed(prompt_per_s=5000, answer_per_s=100))
    facts = {"board": IDLE, "pod": quick}
    short = decide(rules, RequestFacts(dialect="chat", prompt_tokens=10, answer_tokens=1), facts)
    assert (short.target, short.reason) == ("pod", "quickest")  # 0.2 s for 0.0001 dollars
    dear = msgspec.structs.replace(rules, worth_usd_per_s=0.0001)
    assert (
        decide(dear, RequestFacts(dialect="chat", prompt_tokens=10, answer_tokens=1), facts)
        != short
    )
    chat = RequestFacts(dialect="chat", prompt_tokens=10, answer_tokens=20)
    assert decide(dear, chat, facts).reason == "thrifty"
    assert decide(dear, chat, facts).target == "board"


def test_a_pod_that_is_off_pays_for_its_start() -> None:
    """Its start counts in time and in money, so it starts for work that is longer than the start."""
    pod = upstream("pod", kind="pod", usd_per_hour=0.36, start_s=90.0)
    rules = RouteRules(upstreams=(upstream("board"), pod))
    off = UpstreamFacts(
        state="off", speed=UpstreamSpeed(prompt_per_s=5000, answer_per_s=100), models=("small",)
    )
    facts = {"board": IDLE, "pod": off}
    chat = RequestFacts(dialect="chat", prompt_tokens=100, answer_tokens=500)
    decision = decide(rules, chat, facts)
    assert decision.target == "board"
    assert decision.predictions["pod"].start_s == 90.0
    assert round(decision.predictions["pod"].usd, 4) == round(0.0001 * (90 + 0.02 + 5), 4)
    book = RequestFacts(dialect="chat", prompt_tokens=100, answer_tokens=5000)
    assert decide(rules, book, facts).target == "pod"


def test_a_cached_beginning_wins_against_a_little_more_speed() -> None:
    """The reason says that the cache decided."""
    rules = RouteRules(upstreams=(upstream("board"), upstream("desk")))
    warm = msgspec.structs.replace(IDLE, cached_tokens=900)
    quick = msgspec.structs.replace(IDLE, speed=UpstreamSpeed(prompt_per_s=150, answer_per_s=10))
    request = RequestFacts(dialect="chat", prompt_tokens=1000, answer_tokens=10)
    decision = decide(rules, request, {"board": warm, "desk": quick})
    assert (decision.target, decision.reason) == ("board", "cached")


def test_a_full_house_overflows_to_the_pod_until_the_money_is_spent() -> None:
    """Then the answer is 429 with the time of the house's next turn."""
    pod = upstream("pod", kind="pod", usd_per_hour=36.0)
    rules = RouteRules(daily_usd=1.0, longest_wait_s=10.0, upstreams=(upstream("board"), pod))
    full = msgspec.structs.replace(IDLE, running=1, waiting=3, turn_s=60.0)
    request = RequestFacts(dialect="chat", prompt_tokens=10, answer_tokens=10)
    decision = decide(rules, request, {"board": full, "pod": IDLE})
    assert (decision.target, decision.reason) == ("pod", "overflow")
    poor = msgspec.structs.replace(IDLE, spent_usd=1.0)
    decision = decide(rules, request, {"board": full, "pod": poor})
    assert decision.refusal == "full"
    assert decision.retry_s == 50.0  # of its 60 s, 10 s may be waited for


def test_refusals_name_the_rule_that_left_nobody() -> None:
    """Each rule has a code of its own."""
    small = upstream("board", tools=False)
    rules = RouteRules(upstreams=(small,))
    base = {"dialect": "chat", "prompt_tokens": 10, "answer_tokens": 1}
    cases: dict[str, tuple[dict[str, Any], UpstreamFacts]] = {
        "no-target": ({"target": "desk"}, IDLE),
        "no-model": ({"model": "large"}, IDLE),
        "no-dialect": ({}, msgspec.structs.replace(IDLE, speaks=False)),
        "no-tools": ({"tools": True}, IDLE),
        "no-vision": ({"vision": True}, IDLE),
        "too-long": ({"prompt_tokens": 9000}, IDLE),
        "down": ({}, msgspec.structs.replace(IDLE, state="off")),
    }
    for code, (more, facts) in cases.items():
        request = RequestFacts(**{**base, **more})
        assert decide(rules, request, {"board": facts}).refusal == code


def test_who_failed_to_answer_is_not_asked_again() -> None:
    """And when all have failed, nobody is."""
    rules = RouteRules(upstreams=(upstream("board"), upstream("desk")))
    facts = {"board": IDLE, "desk": IDLE}
    request = RequestFacts(dialect="chat", skip=("board",))
    assert decide(rules, request, facts).target == "desk"
    both = RequestFacts(dialect="chat", skip=("board", "desk"))
    assert decide(rules, both, facts).refusal == "down"


def test_decisions_are_kept_as_json_without_loss() -> None:
    """The log's facts decide the same again."""
    rules = RouteRules(upstreams=(upstream("board"), upstream("desk")))
    facts = {"board": IDLE, "desk": IDLE}
    request = RequestFacts(dialect="chat", prompt_tokens=10, answer_tokens=5, key="anna")
    kept = msgspec.json.decode(msgspec.json.encode(facts), type=dict[str, UpstreamFacts])
    again = msgspec.json.decode(msgspec.json.encode(request), type=RequestFacts)
    assert decide(rules, again, kept) == decide(rules, request, facts)
