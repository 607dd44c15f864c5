"""Answers under way: when a place is free, how they slow each other down, and when each ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.route.crowding import Beside, Crowd, duration_s
from dure.route.facts import RequestFacts, UpstreamFacts
from dure.route.learning import UpstreamLearned
from dure.route.least_squares import Belief, TimesFit
from dure.route.places import Busy, Places
from dure.route.prediction import alone_s, predict
from dure.route.upstream import Upstream
from tests.support.shared_machine import SharedMachine, Work

BOARD = Upstream(name="board", url="http://board")
HALF = Crowd(answer=0.5, any_prompt=1.0)


def of(parallel: int, crowd: Crowd | None = None) -> Places:
    places = Places()
    places.parallel = parallel
    places.prompt_crowd = places.answer_crowd = crowd or Crowd()
    return places


def turn_s(places: Places, now_s: float) -> float:
    return places.ahead(now_s, 1.0).turn_s


# ---------------------------------------------------------------- turns


def test_a_turn_comes_when_enough_answers_have_ended() -> None:
    """Two places: the third request waits for the first that ends, the fourth for the second."""
    places = of(2)
    assert turn_s(places, 0.0) == 0.0
    places.take("first", 0.0, 0.0, 10.0)
    assert turn_s(places, 0.0) == 0.0
    places.take("second", 0.0, 1.0, 3.0)
    assert turn_s(places, 1.0) == 3.0
    places.take("third", 1.0, 0.0, 20.0)
    assert turn_s(places, 1.0) == 9.0
    places.leave("second", 1.0)
    assert turn_s(places, 6.0) == 4.0


def test_a_late_answer_is_thought_to_end_soon() -> None:
    """A tenth of its time, for as long as it goes on."""
    places = of(1)
    places.take("late", 0.0, 0.0, 10.0)
    assert turn_s(places, 50.0) == 1.0


def test_other_clients_take_places_too() -> None:
    """Nothing is known of them but their number and how long answers take."""
    places = of(2)
    for others, expected_s in ((1, 0.0), (2, 6.0), (4, 12.0)):
        places.others = others
        assert places.ahead(0.0, 6.0).turn_s == expected_s


def test_any_number_of_other_clients_is_counted() -> None:
    """Each round of as many as there are places takes as long as the first."""
    places = of(3, HALF)
    for others in (2, 3, 255, 256, 257, 258, 259, 900, 1001, 3 * 10**14 + 1):
        places.others = others
        expected_s = others // 3 * 6.0 * 2  # beside two others, at half as much again for each
        turn_s, beside = places.ahead(0.0, 6.0)
        assert turn_s == pytest.approx(expected_s)
        assert len(beside.ends_s) == 2


def test_a_text_that_began_needs_its_text_only() -> None:
    """However long its prompt was thought to take."""
    places = of(1)
    places.take("long", 0.0, 100.0, 4.0)
    assert turn_s(places, 1.0) == 103.0
    places.began("long", 1.0)
    assert turn_s(places, 2.0) == 3.0


# ---------------------------------------------------------------- together


def test_answers_beside_each_other_take_longer() -> None:
    """Two at half as much again: 4 s of work of both are over after 6 s, the rest of the longer alone."""
    places = of(2, HALF)
    places.take("short", 0.0, 0.0, 4.0)
    places.take("long", 0.0, 0.0, 10.0)
    assert turn_s(places, 0.0) == pytest.approx(6.0)
    assert turn_s(places, 3.0) == pytest.approx(3.0)


def test_a_request_meets_what_goes_on_at_its_turn() -> None:
    """A prompt that is read, and its answer after it, each at the speed that the request leaves them."""
    places = of(3, HALF)
    places.take("document", 0.0, 2.0, 4.0)
    beside = places.ahead(0.0, 1.0).beside
    assert beside.read_s == (3.0,)  # beside one answer: half as long again
    assert beside.ends_s == (9.0,)


def test_work_is_quicker_once_others_have_ended() -> None:
    """Three seconds beside a prompt and its answer, the rest alone."""
    beside = Beside(read_s=(2.0,), ends_s=(5.0,))
    assert duration_s(1.0, HALF, 0.0, beside) == 2.0
    assert duration_s(2.0, HALF, 0.0, beside) == 3.5
    assert duration_s(4.0, HALF, 0.0, beside) == 6.0
    assert duration_s(4.0, HALF, 5.0, beside) == 4.0


def test_how_busy_it_was_is_summed_up() -> None:
    """Answers and prompts at once, and the time in which any prompt was read."""
    places = of(4)
    places.take("a", 0.0, 2.0, 8.0)
    places.take("b", 1.0, 4.0, 8.0)
    places.busy(2.0)
    places.began("a", 2.0)
    assert places.busy(4.0) == Busy(answers=2.0, prompts=5.0, reading_s=4.0)


works = st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 50)), max_size=12)
crowds = st.builds(
    Crowd, answer=st.floats(0, 4), prompt=st.floats(0, 4), any_prompt=st.floats(0, 40)
)


@settings(deadline=None)
@given(works, st.integers(1, 6), crowds, crowds, st.floats(0, 100))
def test_everything_ends_in_its_order(
    lefts: list[tuple[float, float]], parallel: int, prompt: Crowd, answer: Crowd, now_s: float
) -> None:
    """A turn comes for whatever goes on; who holds a place then has been read before it ends."""
    places = of(parallel)
    places.prompt_crowd, places.answer_crowd = prompt, answer
    for number, (prompt_s, text_s) in enumerate(lefts):
        places.take(number, 0.0, prompt_s, text_s)
    ahead = places.ahead(now_s, 1.0)
    assert ahead.turn_s >= 0
    assert ahead.turn_s == 0 or len(lefts) >= parallel
    assert list(ahead.beside.ends_s) == sorted(ahead.beside.ends_s)
    assert list(ahead.beside.read_s) == sorted(ahead.beside.read_s)
    assert len(ahead.beside.read_s) <= len(ahead.beside.ends_s) == min(len(lefts), parallel - 1)


@settings(deadline=None)
@given(st.floats(0, 100), crowds, works)
def test_nothing_is_quicker_beside_others(
    work_s: float, crowd: Crowd, others: list[tuple[float, float]]
) -> None:
    """Work takes at least what it takes alone, and no more than it takes beside all of them to its end."""
    read = sorted(prompt_s for prompt_s, _ in others)
    ends = sorted(prompt_s + text_s for prompt_s, text_s in others)
    took_s = duration_s(work_s, crowd, 0.0, Beside(read_s=tuple(read), ends_s=tuple(ends)))
    most = 1 + (crowd.answer + crowd.prompt) * len(others) + crowd.any_prompt
    assert work_s * 0.999 <= took_s <= work_s * most * 1.001 + 1e-9


# ---------------------------------------------------------------- fits


def test_times_are_explained_by_what_was_counted() -> None:
    """Seconds of one, and of each token, come out of times that are sums of both."""
    fit = TimesFit()
    for tokens in (10, 400, 25, 900, 60):
        fit.observe((1, tokens), 0.5 + 0.02 * tokens, 1.0)
    fixed_s, token_s = fit.factors([Belief((0, 1), 0.005, 1e-9)])
    assert fixed_s == pytest.approx(0.5, rel=0.001)
    assert token_s == pytest.approx(0.02, rel=0.001)


def test_many_short_prompts_do_not_make_long_ones_unknown() -> None:
    """A hundred that say nothing of what a token costs, and that noise would decide, leave it as it was."""
    fit = TimesFit()
    for tokens in (10, 400, 900):
        fit.observe((1, tokens), 0.05 + 0.002 * tokens, 0.05 + 0.002 * tokens)
    chance = random.Random(3)
    for _ in range(100):
        tokens = chance.choice((10, 12, 16, 22))
        fit.observe((1, tokens), (0.05 + 0.002 * tokens) * chance.uniform(0.6, 1.4), 0.08)
    fixed_s, token_s = fit.factors([Belief((0, 200), 1, 0.001)])
    assert fixed_s + 900 * token_s == pytest.approx(1.85, rel=0.2)


counts = st.tuples(st.just(1.0), st.floats(0, 1e4), st.floats(0, 1e4))


@settings(deadline=None)
@given(st.lists(st.tuples(counts, st.floats(0, 1e3), st.floats(0.01, 1e3)), max_size=40))
def test_no_factor_is_below_0(
    measured: list[tuple[tuple[float, float, float], float, float]],
) -> None:
    """Whatever was measured."""
    fit = TimesFit()
    for counted, seconds, expected_s in measured:
        fit.observe(counted, seconds, expected_s)
    beliefs = [Belief((0, 100, 0), 1, 0.001), Belief((0, 0, 100), 1, 0.001)]
    assert min(fit.factors(beliefs)) >= 0


# ---------------------------------------------------------------- predictions on a shared machine


def test_finish_times_on_a_shared_machine_are_predicted_within_a_fifth() -> None:
    """Four of five, where answers slow each other down and stand still while a document is read.

    Chats and documents come at random times, at a fifth of what the machine can do; who comes later cannot
    be known. Its speeds are learned from the answers alone.
    """
    machine, learned, places = SharedMachine(100, 20, 4, 0.4), UpstreamLearned(), Places()
    chance, now_s, near = random.Random(2), 0.0, list[bool]()
    places.parallel = machine.parallel

    def settle(until_s: float) -> None:
        for event in machine.run(until_s):
            event.tell(places)
            if (measured := event.measured()) is not None:
                predicted_s = event.work.predicted_s
                near.append(abs(predicted_s - measured.total_s) <= 0.2 * measured.total_s)
                learned.observe(measured, BOARD)

    for _ in range(300):
        now_s += chance.expovariate(0.04)
        settle(now_s)
        prompt = chance.choice((20, 60, 20, 60, 20, 800))
        request = RequestFacts(
            dialect="chat", prompt_tokens=prompt, answer_tokens=chance.choice((20, 60, 120))
        )
        speed = learned.speed(BOARD)
        places.prompt_crowd, places.answer_crowd = speed.prompt_crowd, speed.answer_crowd
        turn, beside = places.ahead(now_s, 1.0)
        facts = UpstreamFacts(speed=speed, turn_s=turn, beside=beside)
        work = Work(request, now_s, predict(request, BOARD, facts).finish_s)
        places.take(work.name, now_s, *alone_s(request, facts))
        machine.add(work, places)
    settle(1e9)
    assert sum(near[30:]) >= 0.8 * len(near[30:])
