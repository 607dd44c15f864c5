"""What a router learns from answers: speeds, lengths, tokens, and what caches hold."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.route.answer_lengths import AnswerKind, AnswerLengths
from dure.route.health import UpstreamHealth
from dure.route.learned_file import read_learned, write_learned
from dure.route.learning import Learned, Measured, TokenCounts, UpstreamLearned
from dure.route.line_fit import LineFit
from dure.route.prefixes import Prefixes, prefix_hashes
from dure.route.upstream import Upstream

BOARD = Upstream(name="board", url="http://board")


def answered(prompt: int, answer: int, cached: int = 0) -> Measured:
    """How an answer went at 50 tokens of prompt and 8 of answer a second, and 0.2 s beside."""
    prompt_s, answer_s = (prompt - cached) / 50, answer / 8
    return Measured(
        total_s=0.2 + prompt_s + answer_s,
        first_s=0.2 + prompt_s,
        prompt_tokens=prompt,
        answer_tokens=answer,
        cached_tokens=cached,
    )


def test_speeds_are_those_of_the_answers() -> None:
    """Prompts of different lengths tell the speed from what every answer takes."""
    learned = UpstreamLearned()
    for prompt in (20, 400, 900, 1500, 60, 2000, 700):
        learned.observe(answered(prompt, 40), BOARD)
    speed = learned.speed(BOARD)
    assert speed.prompt_per_s == pytest.approx(50, rel=0.02)
    assert speed.overhead_s == pytest.approx(0.2, rel=0.2)
    assert speed.answer_per_s == pytest.approx(8, rel=0.01)
    assert speed.measured


def test_a_cached_prefix_is_no_speed() -> None:
    """Tokens that were not computed do not make a prompt quick."""
    learned = UpstreamLearned()
    for prompt in (500, 1000, 1500, 2000):
        learned.observe(answered(prompt, 10, cached=prompt - 100), BOARD)
        learned.observe(answered(prompt, 10), BOARD)
    assert learned.speed(BOARD).prompt_per_s == pytest.approx(50, rel=0.05)


def test_answers_and_prompts_beside_it_are_no_slowness_of_its_own() -> None:
    """An answer that took longer beside others tells by how much each of them slows it down."""
    learned, chance = UpstreamLearned(), random.Random(3)
    for _ in range(200):
        others, reading = chance.choice((0, 1, 3)), chance.choice((0.0, 0.5))
        answer_s = 40 / 8 * (1 + 0.5 * others + reading / (1 - reading))
        learned.observe(
            msgspec.structs.replace(
                answered(100, 40), answer_s=answer_s, beside_answer=(others, reading)
            ),
            BOARD,
        )
    speed = learned.speed(BOARD)
    assert speed.answer_per_s == pytest.approx(8, rel=0.02)
    assert speed.answer_crowd.answer == pytest.approx(0.5, rel=0.05)
    assert speed.answer_crowd.any_prompt > 10  # it stands still while prompts are read


def test_a_whole_answer_tells_its_speed_too() -> None:
    """It comes at once, so what the prompt does not take is the answer's."""
    learned = UpstreamLearned()
    for prompt in (20, 400, 900, 1500):
        learned.observe(answered(prompt, 40), BOARD)
    for _ in range(100):
        slower = answered(100, 40).total_s + 5  # 10 s for 40 tokens
        whole = {"streamed": False, "first_s": slower, "total_s": slower}
        learned.observe(msgspec.structs.replace(answered(100, 40), **whole), BOARD)
    speed = learned.speed(BOARD)
    assert speed.answer_per_s == pytest.approx(4, rel=0.05)
    assert speed.prompt_per_s == pytest.approx(50, rel=0.05)


def test_an_unmeasured_upstream_is_as_its_user_says() -> None:
    """Until its first answer."""
    said = Upstream(name="board", url="http://board", prompt_per_s=70, answer_per_s=7)
    speed = UpstreamLearned().speed(said)
    assert speed.prompt_per_s == pytest.approx(70)
    assert speed.answer_per_s == pytest.approx(7)
    assert not speed.measured


def test_a_cache_that_forgets_is_believed_less() -> None:
    """If half of what should be cached was not, half is expected of the next."""
    learned = UpstreamLearned()
    for _ in range(50):
        more = {"believed_cached": 1000, "cached_tokens": 500}
        learned.observe(msgspec.structs.replace(answered(1200, 10), **more), BOARD)
    assert learned.cached(2000) == 1000


seconds = st.floats(0, 1e5)
numbers = st.integers(0, 10**6)
measurements = st.builds(
    Measured,
    total_s=seconds,
    first_s=seconds,  # later than the end as well: clocks of two machines
    streamed=st.booleans(),
    prompt_tokens=numbers,
    answer_tokens=numbers,
    cached_tokens=st.none() | numbers,
    believed_cached=numbers,
    prompt_s=st.none() | seconds,
    answer_s=st.none() | seconds,
    queue_s=st.none() | seconds,
    beside_prompt=st.tuples(st.floats(0, 256), st.floats(0, 256)),
    beside_answer=st.tuples(st.floats(0, 256), st.floats(0, 1)),
    waited=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(measurements, max_size=8))
def test_whatever_was_measured_can_be_learned_from(measured: list[Measured]) -> None:
    """Also times that cannot be, as of a client that reads slowly; speeds stay above 0."""
    learned = UpstreamLearned()
    for one in measured:
        learned.observe(one, BOARD)
        speed = learned.speed(BOARD)
        assert min(speed.prompt_per_s, speed.answer_per_s) > 0


points = st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4)), min_size=1, max_size=50)


@settings(deadline=None)
@given(points, st.floats(1e-6, 10), st.floats(1, 1000))
def test_a_line_never_predicts_less_than_nothing(
    measured: list[tuple[float, float]], believed: float, spread: float
) -> None:
    """Neither its beginning nor its slope is below 0, whatever was measured."""
    fit = LineFit()
    for x, y in measured:
        fit.observe(x, y)
    assert min(fit.line(believed, spread)) >= 0


def test_answers_are_as_long_as_the_last_ones_of_their_kind() -> None:
    """Of the same model and key and a like limit; of fewer of these, if there are none."""
    lengths = AnswerLengths()
    assert lengths.expected(AnswerKind("small", "anna", 100)) == 100
    for tokens in (10, 20, 30):
        lengths.observe(AnswerKind("small", "anna", None), tokens)
        lengths.observe(AnswerKind("small", "ben", None), 10 * tokens)
    assert lengths.expected(AnswerKind("small", "anna", None)) == 20
    assert lengths.expected(AnswerKind("small", "ben", None)) == 200
    assert lengths.expected(AnswerKind("small", "carl", None)) == 65  # the median of all
    assert lengths.expected(AnswerKind("small", "ben", 50)) == 50


def test_answers_that_their_limit_ended_would_have_been_longer() -> None:
    """If most of the last ones ran into it, the next is expected to do so too, at its own limit."""
    lengths = AnswerLengths()
    for tokens in (64, 64, 30):
        lengths.observe(AnswerKind("small", "anna", 64), tokens)
    assert lengths.expected(AnswerKind("small", "anna", 100)) == 100
    for tokens in (30, 30):
        lengths.observe(AnswerKind("small", "anna", 64), tokens)
    assert lengths.expected(AnswerKind("small", "anna", 100)) == 30


def test_answers_to_prompts_that_begin_alike_or_are_as_long_are_told_from_others() -> None:
    """A program with its own system prompt, and documents beside short questions; a few say nothing."""
    program = AnswerKind("small", "anna", None, 900, "b1")
    document = AnswerKind("small", "anna", None, 8000, "d1")
    lengths = AnswerLengths()
    for _ in range(3):
        lengths.observe(program, 5)
    for _ in range(9):
        lengths.observe(AnswerKind("small", "anna", None, 40), 300)
        lengths.observe(AnswerKind("small", "anna", None, 900, "b2"), 90)
    assert lengths.expected(program) == 90  # as prompts of that length: three are too few
    lengths.observe(program, 5)
    assert lengths.expected(program) == 5
    assert lengths.expected(AnswerKind("small", "anna", None, 50)) == 300
    assert lengths.expected(document) == 90  # the median of anna's


def test_tokens_of_a_prompt_follow_its_bytes() -> None:
    """Each model has its own tokens and its own template."""
    counts = TokenCounts()
    assert counts.expected("small", 4000) == 1000
    for n_bytes in (100, 5000, 900, 20000):
        counts.observe("small", n_bytes, 12 + n_bytes // 5)
    assert counts.expected("small", 10000) == pytest.approx(2012, rel=0.01)
    assert counts.expected("other", 4000) == 1000


def test_finish_times_are_predicted_within_a_fifth() -> None:
    """On a trace of chats and documents at one noisy upstream, four of five, with 5 % of noise."""
    chance, learned, near = random.Random(1), UpstreamLearned(), []
    for _ in range(300):
        prompt, answer = chance.choice((40, 200, 3000)), chance.choice((30, 120))
        noise = chance.gauss(1, 0.05)
        real = answered(prompt, answer)
        speed = learned.speed(BOARD)
        predicted_s = speed.overhead_s + prompt / speed.prompt_per_s + answer / speed.answer_per_s
        total_s = real.total_s * noise
        near.append(abs(predicted_s - total_s) <= 0.2 * total_s)
        learned.observe(
            msgspec.structs.replace(real, total_s=total_s, first_s=real.first_s * noise), BOARD
        )
    assert sum(near) >= 0.8 * len(near)


def test_a_wait_is_no_slowness() -> None:
    """Of an answer that stood in a queue only what the upstream says counts."""
    learned = UpstreamLearned()
    for prompt in (20, 400, 900, 1500):
        learned.observe(answered(prompt, 40), BOARD)
    before = learned.speed(BOARD)
    late = msgspec.structs.replace(answered(900, 40), first_s=60.0, total_s=65.0, waited=True)
    learned.observe(late, BOARD)
    assert learned.speed(BOARD).prompt_per_s == before.prompt_per_s
    told = msgspec.structs.replace(late, prompt_s=18.0, answer_s=5.0)
    learned.observe(told, BOARD)
    assert learned.speed(BOARD).prompt_per_s == pytest.approx(50, rel=0.02)


# ---------------------------------------------------------------- caches


def test_the_next_turn_of_a_conversation_is_cached_up_to_it() -> None:
    """The bytes of a conversation are those of its next turn's beginning; another one has none."""
    turn = b'[{"role":"user","content":"' + b"A long question. " * 200 + b'"}'
    held = Prefixes(1 << 20)
    held.add(prefix_hashes(turn + b"]"))
    grown = prefix_hashes(turn + b',{"role":"assistant","content":"Yes."}]')
    assert len(turn) - 256 <= held.known_bytes(grown) <= len(turn)
    assert held.known_bytes(prefix_hashes(b"x" + turn)) == 0


def test_what_was_read_longest_ago_is_forgotten_first() -> None:
    """And of one prompt the end before the beginning."""
    prompts = [bytes([letter]) * 4096 for letter in b"abc"]
    hashes = list(map(prefix_hashes, prompts))
    held = Prefixes(2 * 4096 + 2048)
    for one in hashes:
        held.add(one)
    assert [held.known_bytes(one) for one in hashes] == [2048, 4096, 4096]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=3000).map(lambda part: part * 7), max_size=20))
def test_a_cache_never_holds_more_than_it_can(prompts: list[bytes]) -> None:
    """What it claims of any prompt is bounded by its size and by the prompt."""
    held = Prefixes(8192)
    for prompt in prompts:
        hashes = prefix_hashes(prompt)
        held.add(hashes)
        assert held.known_bytes(hashes) <= min(8192, len(prompt))


# ---------------------------------------------------------------- health


def test_three_failures_in_a_row_are_a_rest_and_one_more_after_it_a_longer_one() -> None:
    """An answer makes all of them forgotten."""
    health = UpstreamHealth().found_up()
    for _ in range(2):
        health = health.failed(0.0, "broke off")
        assert health.rest_until_s == 0.0
    health = health.failed(0.0, "broke off")
    assert health.rest_until_s == 5.0
    health = health.found_up().failed(6.0, "broke off")
    assert health.rest_until_s == 16.0
    assert health.answered().failed(20.0, "broke off").rest_until_s == 0.0


def test_a_busy_upstream_rests_as_long_as_it_says() -> None:
    """Within reason: a server that says an hour is asked again after five minutes."""
    health = UpstreamHealth().found_up()
    assert health.busy(10.0, 7.0).rest_until_s == 17.0
    assert health.busy(10.0, 3600.0).rest_until_s == 310.0
    assert health.busy(10.0, 0.0).rest_until_s == 11.0


# ---------------------------------------------------------------- kept


def test_what_was_learned_is_kept_and_a_damaged_file_is_learned_anew(tmp_path: Path) -> None:
    """All of it comes back; a file that is no JSON is as none."""
    learned, file = Learned(), tmp_path / "route" / "learned.json"
    learned.upstream("board").observe(answered(100, 40), BOARD)
    learned.lengths.observe(AnswerKind("small", "anna", 100), 40)
    learned.tokens.observe("small", 400, 100)
    learned.spend("pod", 0.5, "2026-11-30")
    write_learned(file, learned)
    assert read_learned(file) == learned
    assert file.stat().st_mode & 0o077 == 0
    file.write_text("{")
    assert read_learned(file) == Learned()


def test_money_is_of_one_day() -> None:
    """The next day begins at nothing."""
    learned = Learned()
    learned.spend("pod", 0.5, "2026-11-30")
    learned.spend("pod", 0.25, "2026-11-30")
    assert learned.spent("pod", "2026-11-30") == 0.75
    assert learned.spent("pod", "2026-12-01") == 0.0
    learned.spend("pod", 0.1, "2026-12-01")
    assert learned.spent("pod", "2026-12-01") == 0.1
