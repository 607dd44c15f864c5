"""Questions that are too hard for a weaker model: what is learned of them, and what follows from it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dure.errors import UsageError
from dure.route.decision import decide
from dure.route.decision_log import read_log, read_verdicts
from dure.route.difficulty import Difficulty, features
from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.judging import Judging, WeakAnswer
from dure.route.learned_file import read_learned
from dure.route.report import report_of
from dure.route.rules_file import parse_rules, read_rules
from dure.route.upstream import RouteRules
from tests.route.test_route_decision import facts_of_all, requests, rules_of_all
from tests.support.routing import routing, upstream
from tests.support.scripted_upstream import scripted

CHANCES = st.one_of(st.none(), st.floats(0, 1))
HARD = "Prove that {} is irrational, step by step."
EASY = "What is the capital of {}?"


def hard(rules: RouteRules, strengths: tuple[int, ...], mode: str = "on") -> RouteRules:
    found = tuple(
        msgspec.structs.replace(one, strength=strength)
        for one, strength in zip(rules.upstreams, strengths, strict=True)
    )
    return msgspec.structs.replace(rules, upstreams=found, difficulty=mode)


# ---------------------------------------------------------------- the rule


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all, CHANCES, st.tuples(*[st.integers(1, 3)] * 3))
def test_a_hard_question_goes_to_the_strongest_that_is_left(
    rules: RouteRules,
    request: RequestFacts,
    facts: dict[str, UpstreamFacts],
    chance: float | None,
    strengths: tuple[int, ...],
) -> None:
    """The rule never leaves nobody, and passes over no upstream as strong as the one that answers."""
    ruled = hard(rules, strengths)
    asked = msgspec.structs.replace(request, difficulty=chance)
    decision, before = decide(ruled, asked, facts), decide(rules, request, facts)
    assert bool(decision.target) == bool(before.target)
    assert decision.refusal == before.refusal
    assume(decision.target)
    excluded = next(line.excluded for line in decision.lines if line.rule == "difficulty")
    of = {one.name: one.strength for one in ruled.upstreams}
    assert {*excluded, *decision.predictions} == set(before.predictions)
    if chance is None or chance < ruled.difficulty_threshold:
        assert not excluded
        assert decision.target == before.target
    else:
        assert of[decision.target] == max(of[name] for name in before.predictions)
        assert all(of[name] < of[decision.target] for name in excluded)


@settings(deadline=None)
@given(rules_of_all, requests, facts_of_all, st.floats(0, 1), st.sampled_from(("off", "shadow")))
def test_a_shadow_changes_no_decision(
    rules: RouteRules,
    request: RequestFacts,
    facts: dict[str, UpstreamFacts],
    chance: float,
    mode: str,
) -> None:
    """It is in what the rule saw, and nowhere else."""
    asked = msgspec.structs.replace(request, difficulty=chance)
    shadow, without = (
        decide(hard(rules, (1, 2, 3), mode), asked, facts),
        decide(rules, request, facts),
    )
    assert (shadow.target, shadow.reason) == (without.target, without.reason)


def test_rules_name_a_mode_and_at_least_two_strengths() -> None:
    """Mistakes are told with line and cure."""
    text = '[route]\ndifficulty = "{}"\n{}\n[route.upstreams.a]\nurl = "http://a"\n'
    second = '[route.upstreams.b]\nurl = "http://b"\nstrength = 2\n'
    assert parse_rules(text.format("shadow", "") + second, "f").difficulty == "shadow"
    for wrong, said in (
        (text.format("maybe", "") + second, "line 2: .* no such mode.*off, shadow, on"),
        (text.format("on", ""), "line 2: .* same strength"),
        (text.format("on", "difficulty-threshold = 2") + second, "line 3: .* is 2"),
    ):
        with pytest.raises(UsageError, match="(?s)" + said):
            parse_rules(wrong, "f")


# ---------------------------------------------------------------- the guess


def test_a_guess_is_learned_from_verdicts() -> None:
    """After a hundred, new questions of both kinds are told apart; before twenty there is no guess."""
    chance, learned = random.Random(4), Difficulty()
    for number in range(100):
        assert learned.is_known == (number >= 20)
        is_hard = number % 2 == 0
        text = (HARD if is_hard else EASY).format(f"thing{chance.randint(0, 999)}")
        learned.observe(features(text), good=not is_hard)
    assert learned.chance(features(HARD.format("pi"))) > 0.7
    assert learned.chance(features(EASY.format("Peru"))) < 0.3


@settings(deadline=None)
@given(st.text(max_size=300), st.lists(st.tuples(st.text(max_size=80), st.booleans()), max_size=30))
def test_a_guess_is_a_chance(text: str, verdicts: list[tuple[str, bool]]) -> None:
    """Between 0 and 1 whatever was asked, and a bad verdict makes the same question no easier."""
    learned = Difficulty()
    for said, good in verdicts:
        learned.observe(features(said), good=good)
    before = learned.chance(features(text))
    assert 0 <= before <= 1
    learned.observe(features(text), good=False)
    assert learned.chance(features(text)) >= before - 0.01


def test_what_is_kept_has_no_text() -> None:
    """Numbers only: no word of any question."""
    learned = Difficulty()
    learned.observe(features("the password is rosebud"), good=False)
    kept = msgspec.json.encode(learned).decode()
    assert not any(word in kept for word in ("password", "rosebud", "the"))


# ---------------------------------------------------------------- verdicts


def asked(number: int, key: str = "anna", strength: int = 1) -> WeakAnswer:
    return WeakAnswer(f"id-{number}", key, b"prompt-%d" % number, strength, (1, 2), 0.4)


def test_an_answer_is_judged_once_and_by_its_own_key() -> None:
    """By what its user says; nobody else can."""
    judging = Judging()
    judging.answered(asked(1), 0.0)
    assert judging.said("id-1", "ben", good=False) is None
    verdict = judging.said("id-1", "anna", good=False)
    assert verdict is not None
    assert (verdict.good, verdict.how) == (False, "said")
    assert judging.said("id-1", "anna", good=False) is None


def test_the_same_asked_of_a_stronger_one_is_a_verdict() -> None:
    """The same prompt, by the same key, of a stronger upstream."""
    judging = Judging()
    judging.answered(asked(1), 0.0)
    assert judging.asked_again(b"prompt-2", "anna", 2) is None
    assert judging.asked_again(b"prompt-1", "ben", 2) is None
    assert judging.asked_again(b"prompt-1", "anna", 1) is None
    verdict = judging.asked_again(b"prompt-1", "anna", 2)
    assert verdict is not None
    assert (verdict.good, verdict.how) == (False, "asked-again")


def test_who_says_nothing_is_content_after_ten_minutes() -> None:
    """Not before."""
    judging = Judging()
    judging.answered(asked(1), 0.0)
    judging.answered(asked(2), 300.0)
    assert not list(judging.content(599.0))
    assert [one.asked.id for one in judging.content(600.0)] == ["id-1"]
    assert [one.good for one in judging.content(1000.0)] == [True]


# ---------------------------------------------------------------- through a router


def test_a_router_learns_from_feedback_and_then_spares_the_weak(tmp_path: Path) -> None:
    """Verdicts by feedback and by asking again; once there are enough, hard questions go to the strong.

    The log decides the same again, and neither it nor what is learned has a word of any question.
    """
    with scripted() as weak, scripted() as strong:
        rules = '[route]\ndifficulty = "on"\n' + upstream("weak", weak.url)
        rules += upstream("strong", strong.url, strength=2, usd_per_million_answer_tokens=1000.0)
        with routing(tmp_path, rules) as router, httpx.Client(base_url=router.url) as client:
            for number in range(12):
                for text, good in ((HARD, False), (EASY, True)):
                    answer = ask(client, text.format(number), "weak")
                    said = {"id": answer.headers["x-request-id"], "good": good}
                    assert client.post("/route/feedback", json=said).status_code == 200
            assert client.post("/route/feedback", json=said).status_code == 404  # once only
            assert client.post("/route/feedback", json={"id": 1}).status_code == 400
            ask(client, HARD.format("e"), "weak")
            ask(client, HARD.format("e"), "strong")  # by name, as the weak one's did not do
            hard_one = ask(client, HARD.format("pi"))
            easy_one = ask(client, EASY.format("Peru"))
            router.stop()
    assert hard_one.headers["x-route-target"] == "strong"
    assert hard_one.headers["x-route-reason"] == "too-hard"
    assert easy_one.headers["x-route-target"] == "weak"
    log = router.directory / "log.jsonl"
    found, verdicts = read_rules(tmp_path / "rules.toml"), list(read_verdicts(log))
    for line in read_log(log):
        assert decide(found, line.request, line.facts).target == line.target
    assert [one.how for one in verdicts].count("asked-again") == 1
    report = report_of(read_log(log), found, verdicts)
    assert report.difficulty is not None
    assert (report.difficulty.n_bad, report.difficulty.n_good) == (13, 12)
    assert read_learned(router.directory / "learned.json").difficulty.n_bad == 13
    for file in router.directory.iterdir():
        assert "irrational" not in file.read_text()


def ask(client: httpx.Client, text: str, target: str = "") -> httpx.Response:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 20}
    headers = {"x-route-target": target} if target else {}
    answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    return answer
