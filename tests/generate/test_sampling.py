"""Choosing a token: from the ranks' best as from all logits, as llama.cpp does it, as often as told.

Filters are compared with a plain implementation, the draw with llama.cpp's chain over the whole sorted
vocabulary, and penalties on slices with llama.cpp's own samplers over the whole.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dure.engine.compute.top_k import adjust, merge_top_k, slice_top_k
from dure.engine.executor import TOP_K, TopK
from dure.errors import ModelError, UsageError
from dure.generate.llama_samplers import SamplerChain, TokenArray
from dure.generate.request import Grammar
from dure.generate.sampling import GrammarEnd, Sampler, Sampling, filter_top, n_best_of
from dure.model.vocabulary import Vocabulary

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
Floats = npt.NDArray[np.float32]
NEAR = (
    1e-4  # a rank's log-sum-exp is float32: who stands so near to a limit may fall on either side
)
GREEDY = Sampling(temperature=0)
PLAIN = Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=1)


def union(
    logits: Floats, sampling: Sampling, borders: Sequence[int], *, n_best: int | None = None
) -> TopK:
    """What comes back of a step when the vocabulary is cut at `borders`."""
    n_best = min(n_best or n_best_of(sampling), logits.size)
    edges = [0, *borders, logits.size]
    slices = [slice_top_k(np.ascontiguousarray(logits[a:b]), n_best, a) for a, b in pairwise(edges)]
    return merge_top_k(slices, n_best, logits.size)


def whole(logits: Floats) -> TopK:
    """The whole vocabulary, best first."""
    ids = np.argsort(-logits, kind="stable").astype(np.int32)
    return TopK(ids, logits[ids], math.nan, whole=True)


def choose(sampler: Sampler, logits: Floats) -> int:
    """The next token of all logits."""
    return sampler.choose(whole(logits), lambda: logits)


def never() -> NoReturn:
    raise AssertionError("the whole logits were asked for")


# ---------------------------------------------------------------- llama.cpp's filters, plainly


def softmax(logits: list[float]) -> list[float]:
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / math.fsum(weights) for w in weights]


def reference_filters(logits: Floats, sampling: Sampling) -> tuple[list[int], float]:
    """The ids that are left, best first, as llama.cpp's chain of top-k, top-p, min-p leaves them.

    Also how near a token came to a limit: where that is almost 0, rounding decides.
    Source: llama.cpp `src/llama-sampler.cpp`.
    """
    ids, margin = sorted(range(logits.size), key=lambda i: (-logits[i], i)), math.inf
    if sampling.top_k > 0:
        ids = ids[: sampling.top_k]
    if sampling.top_p < 1:
        kept, total = 0, 0.0
        for p in softmax([float(logits[i]) for i in ids]):
            total += p
            kept += 1
            margin = min(margin, abs(total - sampling.top_p))
            if total >= sampling.top_p:
                break
        ids = ids[:kept]
    if sampling.min_p > 0:
        least = float(logits[ids[0]]) + math.log(sampling.min_p)
        margin = min([margin, *(abs(float(logits[i]) - least) for i in ids[1:])])
        ids = [i for i in ids if i == ids[0] or float(logits[i]) >= least]
    return ids, margin


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-310, 1e-3, 0.3, 0.8, 1.0, 2.5, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 40, TOP_K, TOP_K + 1, 300, 700, 5000, 2**32 + 1]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)
all_samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 2, 40, TOP_K, TOP_K + 1, 5000]),
    top_p=st.sampled_from([0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.05]),
    typical_p=st.sampled_from([1.0, 1.0, 0.9, 0.2]),
    top_n_sigma=st.sampled_from([-1.0, -1.0, 0.0, 0.5, 2.0]),
    xtc_probability=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    xtc_threshold=st.sampled_from([0.01, 0.1]),
    mirostat=st.sampled_from([0, 0, 0, 1, 2]),
    mirostat_tau=st.sampled_from([1.0, 5.0]),
    seed=st.integers(0, 2**63 - 1),
)


@st.composite
def vocabularies(draw: st.DrawFn, least: int = 1) -> tuple[Floats, list[int]]:
    """Logits from flat to sharp, some with many equal ones, and where the vocabulary is cut."""
    n = draw(st.integers(least, 1500))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.standard_normal(n) * draw(st.sampled_from([0.01, 0.5, 2.0, 6.0, 30.0]))
    if draw(st.booleans()):
        logits = np.round(logits * 2) / 2
    borders = draw(st.lists(st.integers(1, n - 1), max_size=4, unique=True)) if n > 1 else []
    return logits.astype(np.float32), sorted(borders)


# ---------------------------------------------------------------- exactness


@settings(max_examples=200, deadline=None)
@given(vocabularies(), all_samplings, st.integers(0, 3))
def test_the_union_of_the_ranks_best_chooses_as_the_whole_vocabulary(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling, place: int
) -> None:
    """Whatever the logits, the cut, the parameters and the place: the token is llama.cpp's."""
    logits, borders = vocabulary
    assume(reference_filters(logits, sampling)[1] > NEAR or sampling.mirostat > 0)
    sampler = Sampler(sampling, n_vocab=logits.size)
    for _ in range(place):
        sampler.accept(0)
    chosen = sampler.choose(union(logits, sampling, borders), lambda: logits)
    assert sampling.seed is not None
    if sampling.temperature == 0 and sampling.typical_p == 1 and not sampling.xtc_probability:
        assert chosen == logits.argmax()
    else:
        chain = SamplerChain(sampling, sampling.seed, logits.size)
        assert chosen == chain.draw(whole(logits), place).chosen


@settings(max_examples=120, deadline=None)
@given(vocabularies(), samplings)
def test_what_the_filters_keep_is_what_llama_cpp_keeps_or_is_undecided(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling
) -> None:
    """From the ranks' best, `keep` leaves the reference's ids in its order, or says it cannot tell."""
    logits, borders = vocabulary
    assume(sampling.temperature > 0)
    expected, margin = reference_filters(logits, sampling)
    assume(margin > NEAR)
    kept = filter_top(union(logits, sampling, borders), sampling)
    if kept is not None:
        assert kept.ids.tolist() == expected
    else:
        assert logits.size > TOP_K


@settings(max_examples=120, deadline=None)
@given(vocabularies(), samplings)
def test_the_chosen_token_is_one_that_the_filters_leave(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling
) -> None:
    """Top-k, top-p and min-p mean what the plain reference says they mean."""
    logits, borders = vocabulary
    expected, margin = reference_filters(logits, sampling)
    assume(margin > NEAR)
    chosen = Sampler(sampling).choose(union(logits, sampling, borders), lambda: logits)
    assert chosen in expected


@settings(max_examples=80, deadline=None)
@given(vocabularies(), samplings)
def test_nothing_more_is_fetched_where_the_best_decide(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling
) -> None:
    """Greedy choice and top-k up to 256 never ask for the whole logits."""
    logits, borders = vocabulary
    assume(sampling.temperature == 0 or 0 < sampling.top_k <= TOP_K)
    best = union(logits, sampling, borders)
    assert 0 <= Sampler(sampling).choose(best, never) < logits.size


@settings(max_examples=120, deadline=None)
@given(vocabularies(least=30), all_samplings, st.integers(0, 2**32))
def test_forbidden_tokens_are_as_if_they_were_not_there(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling, random_seed: int
) -> None:
    """With a third of the logits -inf, every filter leaves what it leaves of the others alone."""
    logits, borders = vocabulary
    allowed = np.random.default_rng(random_seed).random(logits.size) > 1 / 3
    assume(allowed.any())
    masked = np.where(allowed, logits, np.float32(-np.inf))
    margin = min(reference_filters(x, sampling)[1] for x in (masked[allowed], logits))
    assume(margin > NEAR)
    best = union(masked, sampling, borders)
    chosen = Sampler(sampling, n_vocab=logits.size).choose(best, lambda: masked)
    alone = Sampler(sampling, n_vocab=logits.size)
    expected = alone.choose(whole(masked[allowed]), never)
    assert chosen == np.flatnonzero(allowed)[expected]


def test_a_flat_vocabulary_is_fetched_whole() -> None:
    """Without filters that close, a token beyond the best 256 can be chosen."""
    logits = np.zeros(2000, np.float32)
    best = union(logits, PLAIN, [500])
    assert max(draws(PLAIN, best, 50, logits)) > best.ids.max()


def test_a_high_temperature_brings_tokens_whose_probability_vanished() -> None:
    """Filters come before temperature: where they are off, all of the vocabulary takes part."""
    logits = np.linspace(0, -200, 300, dtype=np.float32)
    sampling = Sampling(temperature=1e6, top_k=0, top_p=1, min_p=0, seed=1)
    assert max(draws(sampling, union(logits, sampling, [100]), 200, logits)) >= TOP_K


def test_top_p_that_closes_within_the_best_fetches_nothing() -> None:
    """A sharp distribution needs no more than the union, even with top-k off."""
    logits = np.linspace(0, -200, 2000, dtype=np.float32)
    sampling = Sampling(top_k=0, top_p=0.9, min_p=0, seed=1)
    assert Sampler(sampling).choose(union(logits, sampling, [700]), never) < 20


@pytest.mark.parametrize(
    ("sampling", "more", "expected"),
    [
        (GREEDY, {}, 1),
        (GREEDY, {"n_logprobs": 0}, 2),
        (GREEDY, {"n_logprobs": 20}, 20),
        (GREEDY, {"grammar": True}, 64),
        (Sampling(top_k=40), {}, 40),
        (Sampling(top_k=40), {"n_logprobs": 50}, 50),
        (Sampling(top_k=40), {"grammar": True}, 64),
        (Sampling(top_k=1), {}, TOP_K),
        (Sampling(top_k=0), {}, TOP_K),
        (Sampling(top_k=TOP_K + 1), {}, TOP_K),
        (Sampling(temperature=0, xtc_probability=0.5, top_k=0), {}, TOP_K),
    ],
)
def test_a_step_reports_as_many_as_the_choice_mostly_needs(
    sampling: Sampling, more: dict[str, Any], expected: int
) -> None:
    """The best one alone for greedy choice, top-k's k, and 256 where nothing says fewer."""
    assert n_best_of(sampling, **more) == expected


def test_equal_logits_are_ordered_by_id_in_every_cut() -> None:
    """Greedy choice between equal tokens takes the lowest id, whichever rank holds it."""
    logits = np.array([0, 1, 3, 3, 3, 2], np.float32)
    for borders in ([], [1], [3], [4], [2, 3], [1, 2, 3, 4, 5]):
        assert Sampler(GREEDY).choose(union(logits, GREEDY, borders), never) == 2


def test_logits_that_are_no_numbers_are_an_error_of_the_model() -> None:
    """Nothing is chosen of NaN."""
    logits = np.full(10, np.nan, np.float32)
    with pytest.raises(ModelError, match="no number"):
        Sampler(GREEDY).choose(whole(logits), never)


# ---------------------------------------------------------------- seeds


def draws(sampling: Sampling, best: TopK, n: int, logits: Floats | None = None) -> list[int]:
    """An answer of n tokens, each chosen from the same candidates."""
    sampler, chosen = Sampler(sampling), []
    for _ in range(n):
        chosen.append(sampler.choose(best, never if logits is None else lambda: logits))
        sampler.accept(chosen[-1])
    return chosen


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=1),
        Sampling(temperature=0.5, top_k=5, top_p=1.0, min_p=0.0, seed=2),
        Sampling(temperature=2.0, top_k=0, top_p=0.8, min_p=0.0, seed=3),
        Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.2, seed=4),
        Sampling(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, seed=5),
    ],
)
def test_tokens_are_drawn_as_often_as_their_probability_says(sampling: Sampling) -> None:
    """20,000 places' draws fit softmax(logits / temperature) over what is kept, by chi-square."""
    logits = np.random.default_rng(7).normal(0, 1.5, 30).astype(np.float32)
    ids, _ = reference_filters(logits, sampling)
    expected = 20_000 * np.array(softmax([float(logits[i]) / sampling.temperature for i in ids]))
    drawn = np.bincount(draws(sampling, union(logits, sampling, [11, 20]), 20_000), minlength=30)
    assert drawn[ids].sum() == 20_000
    chi_square = float(((drawn[ids] - expected) ** 2 / expected).sum())
    freedom = len(ids) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=0.5, top_k=5, top_p=1.0, min_p=0.0, seed=2), PLAIN, GREEDY]
)
def test_what_a_token_was_drawn_from_has_its_probabilities(sampling: Sampling) -> None:
    """They are softmax(logits / temperature) over what the filters keep; greedy, of one token alone."""
    logits = np.random.default_rng(7).normal(0, 1.5, 30).astype(np.float32)
    ids = [int(logits.argmax())] if sampling == GREEDY else reference_filters(logits, sampling)[0]
    sampler = Sampler(sampling)
    token = sampler.choose(union(logits, sampling, [11, 20]), lambda: logits)
    drawn = sampler.drawn_from()
    assert token in dict(drawn)
    assert [one for one, _ in drawn] == sorted(ids, key=lambda i: -logits[i])
    expected = softmax([float(logits[i]) / (sampling.temperature or 1) for i, _ in drawn])
    assert [math.exp(logprob) for _, logprob in drawn] == pytest.approx(expected, rel=1e-5)


def test_the_next_place_does_not_depend_on_this_ones_draw() -> None:
    """Pairs of neighbouring draws of two equal tokens are equally frequent, for many seeds."""
    best = union(np.zeros(2, np.float32), PLAIN, [])
    pairs = np.zeros((2, 2), int)
    for seed in range(1000):
        a, b = draws(Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=seed), best, 2)
        pairs[a, b] += 1
    assert ((pairs > 180) & (pairs < 320)).all()


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    """Two samplers of one seed draw alike; another seed, or none, draws otherwise."""
    best = union(np.zeros(1000, np.float32), Sampling(top_k=200), [])

    def of(seed: int | None) -> list[int]:
        return draws(Sampling(temperature=1, top_k=200, top_p=1, min_p=0, seed=seed), best, 20)

    assert of(3) == of(3)
    assert of(0) == of(0)
    assert of(3) != of(4)
    assert of(3) != of(2**63 - 1)
    assert of(None) != of(None)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=5),
        Sampling(temperature=1, top_k=100, xtc_probability=0.5, xtc_threshold=0.001, seed=5),
    ],
)
def test_a_place_draws_the_same_whatever_was_drawn_before(sampling: Sampling) -> None:
    """An answer that is taken up in the middle goes on as if it had never stopped."""
    logits = np.zeros(500, np.float32)
    best = union(logits, sampling, [100])
    undisturbed = draws(sampling, best, 20, logits)
    taken_up = Sampler(sampling)
    for token in undisturbed[:11]:
        taken_up.accept(token)
    rest = []
    for _ in range(9):
        taken_up.choose(best, lambda: logits)  # choosing twice changes nothing
        rest.append(taken_up.choose(best, lambda: logits))
        taken_up.accept(rest[-1])
    assert rest == undisturbed[11:]
    assert len(set(undisturbed)) > 5


@pytest.mark.parametrize("mirostat", [1, 2])
def test_mirostat_repeats_from_a_seed_and_keeps_near_its_surprise(mirostat: int) -> None:
    """The same seed gives the same tokens; a lower tau gives fewer different ones."""
    logits = np.random.default_rng(3).normal(0, 2, 800).astype(np.float32)

    def of(tau: float, seed: int) -> list[int]:
        sampling = Sampling(temperature=1, mirostat=mirostat, mirostat_tau=tau, seed=seed)
        sampler, chosen = Sampler(sampling, n_vocab=800), []
        for _ in range(100):
            chosen.append(sampler.choose(union(logits, sampling, [300]), lambda: logits))
            sampler.accept(chosen[-1])
        return chosen

    assert of(5.0, 1) == of(5.0, 1)
    assert of(5.0, 1) != of(5.0, 2)
    assert len(set(of(1.0, 1))) < len(set(of(8.0, 1)))


# ---------------------------------------------------------------- penalties and biases


def through_llama(logits: Floats, sampler: Any, history: Sequence[int]) -> Floats:
    """What a sampler of llama.cpp makes of all logits after some tokens."""
    for token in history:
        lib.llama_sampler_accept(sampler, token)
    tokens = TokenArray(np.arange(logits.size, dtype=np.int32), logits, is_sorted=False)
    tokens.apply(sampler)
    lib.llama_sampler_free(sampler)
    changed = np.empty_like(logits)
    changed[tokens.left["id"]] = tokens.left["logit"]
    return changed


def reference_adjusted(
    logits: Floats, sampling: Sampling, history: Sequence[int], vocabulary: Vocabulary
) -> Floats:
    """Bias, penalties and DRY, as llama.cpp's own samplers do them, one after the other."""
    n, s = logits.size, sampling
    bias = [lib.llama_logit_bias(token, value) for token, value in s.logit_bias.items()]
    array = (lib.llama_logit_bias * len(bias))(*bias)
    logits = through_llama(logits, lib.llama_sampler_init_logit_bias(n, len(bias), array), [])
    window = len(history) + 1 if s.repeat_last_n < 0 else s.repeat_last_n
    penalties = (s.repeat_penalty, s.frequency_penalty, s.presence_penalty)
    logits = through_llama(logits, lib.llama_sampler_init_penalties(n, window, *penalties), history)
    breakers = [text.encode() for text in s.dry_sequence_breakers]
    dry = lib.llama_sampler_init_dry(
        vocabulary.pointer,
        s.dry_multiplier,
        s.dry_base,
        s.dry_allowed_length,
        vocabulary.n_ctx_train if s.dry_penalty_last_n < 0 else s.dry_penalty_last_n,
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )
    return through_llama(logits, dry, history)


@st.composite
def changing(draw: st.DrawFn, n_vocab: int) -> Sampling:
    tokens = st.integers(0, n_vocab - 1) | st.integers(0, 12)
    return Sampling(
        temperature=0,
        repeat_penalty=draw(st.sampled_from([1.0, 1.3, 0.7])),
        repeat_last_n=draw(st.sampled_from([-1, 0, 1, 5, 64])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.5, -1.0])),
        presence_penalty=draw(st.sampled_from([0.0, 1.5, -0.25])),
        dry_multiplier=draw(st.sampled_from([0.0, 0.8])),
        dry_allowed_length=draw(st.sampled_from([0, 1, 2])),
        dry_penalty_last_n=draw(st.sampled_from([-1, 0, 4, 50])),
        dry_sequence_breakers=draw(st.sampled_from([(), ("\n", "*")])),
        logit_bias=draw(
            st.dictionaries(tokens, st.sampled_from([-math.inf, -3.0, 0.0, 2.5, 100.0]), max_size=5)
        ),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_penalties_on_slices_are_llama_cpps_on_the_whole(
    vocabulary: Vocabulary, data: st.DataObject
) -> None:
    """Bias (also -inf), repetition, frequency, presence and DRY: the same logits, however it is cut."""
    n = vocabulary.n_tokens
    sampling = data.draw(changing(n))
    prompt = data.draw(st.lists(st.integers(0, 12), max_size=40))
    answer = data.draw(st.lists(st.integers(0, 12), max_size=10))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = random.normal(0, 3, n).astype(np.float32)
    sampler = Sampler(sampling, vocabulary, context=prompt, n_vocab=n)
    for token in answer:
        sampler.accept(token)
    borders = sorted(data.draw(st.lists(st.integers(1, n - 1), max_size=4, unique=True)))
    adjusted = logits.copy()
    for start, stop in pairwise([0, *borders, n]):
        adjust(adjusted[start:stop], sampler.adjustment(), start)
    expected = reference_adjusted(logits, sampling, prompt + answer, vocabulary)
    np.testing.assert_allclose(adjusted, expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_sent_where_nothing_changes() -> None:
    """Without penalties and biases a step has no adjustment."""
    assert Sampler(GREEDY, context=[1, 2, 3]).adjustment() is None
    sampling = Sampling(temperature=0, repeat_penalty=1.5, repeat_last_n=0)
    assert Sampler(sampling, context=[1, 2, 3]).adjustment() is None


def test_windows_beyond_any_text_are_no_danger(vocabulary: Vocabulary) -> None:
    """A DRY window of 2^62 tokens takes no memory for them, and means the whole text."""
    tokens = [5, 6, 7, 8, 9, 5, 6, 7, 8]
    changes = [
        Sampler(
            Sampling(
                dry_multiplier=1.0,
                dry_penalty_last_n=window,
                dry_allowed_length=1,
                dry_sequence_breakers=(),
            ),
            vocabulary,
            context=tokens,
        ).adjustment()
        for window in (-1, 2**62)
    ]
    assert changes[0] is not None
    assert changes[1] is not None
    assert (changes[0].after == changes[1].after).all()
    assert changes[0].after[changes[0].ids.tolist().index(9)] < 0


def test_where_all_tokens_are_forbidden_the_answer_ends() -> None:
    """There is nothing to choose from."""
    with pytest.raises(GrammarEnd):
        Sampler(GREEDY).choose(whole(np.full(10, -np.inf, np.float32)), never)


# ---------------------------------------------------------------- grammars

WORDS = Grammar('root ::= [a-z]+ (" " [a-z]+)* "."')
YES = Grammar('root ::= "yes" | "no"')


@settings(max_examples=8, deadline=None)
@given(
    st.integers(0, 2**32), all_samplings, st.lists(st.integers(1, 1000), max_size=3, unique=True)
)
def test_with_a_grammar_the_union_chooses_as_the_whole(
    vocabulary: Vocabulary, random_seed: int, sampling: Sampling, borders: list[int]
) -> None:
    """Six tokens on, both have always chosen the same, and the text follows the grammar."""
    n = vocabulary.n_tokens
    random = np.random.default_rng(random_seed)
    a, b = (Sampler(sampling, vocabulary, grammar=WORDS, n_vocab=n) for _ in range(2))
    text = b""
    for _ in range(6):
        logits = random.normal(0, 4, n).astype(np.float32)
        assume(reference_filters(logits, sampling)[1] > NEAR)
        best = union(logits, sampling, sorted(borders), n_best=a.n_best)
        token = a.choose(best, partial(np.copy, logits))
        assert choose(b, logits) == token
        if vocabulary.is_end(token):
            assert text.endswith(b".")
            break
        a.accept(token)
        b.accept(token)
        text += vocabulary.piece(token)
    assert re.fullmatch(rb"[a-z]+( [a-z]*)*\.?", text)


@pytest.mark.parametrize("sampling", [GREEDY, PLAIN])
def test_a_grammars_end_leaves_only_the_models_ends(
    vocabulary: Vocabulary, sampling: Sampling
) -> None:
    """After "yes" or "no" comes a token that ends the answer; where these are forbidden, GrammarEnd."""
    n = vocabulary.n_tokens
    logits = np.random.default_rng(1).normal(0, 1, n).astype(np.float32)
    for forbidden in ((), vocabulary.ends):
        sampler = Sampler(sampling, vocabulary, grammar=YES, forbidden=forbidden, n_vocab=n)
        text, row = b"", logits.copy()
        adjust(row, sampler.adjustment(), 0)
        while text not in (b"yes", b"no"):
            token = choose(sampler, row)
            text += vocabulary.piece(token)
            sampler.accept(token)
        if forbidden:
            with pytest.raises(GrammarEnd):
                choose(sampler, row)
        else:
            assert vocabulary.is_end(choose(sampler, row))


def test_greedy_choice_with_a_grammar_takes_the_best_that_is_allowed(
    vocabulary: Vocabulary,
) -> None:
    """Among the union if one is there, and else among all."""
    logits = np.zeros(vocabulary.n_tokens, np.float32)
    (yes,) = vocabulary.tokenize("y", add_bos=False)
    (no,) = vocabulary.tokenize("n", add_bos=False)
    logits[yes], logits[no] = 1.0, 0.5
    sampler = Sampler(GREEDY, vocabulary, grammar=YES)
    assert sampler.choose(union(logits, GREEDY, [], n_best=sampler.n_best), never) == yes
    logits[yes] = -2.0
    logits[no] = -1.0
    best = union(logits, GREEDY, [], n_best=sampler.n_best)
    assert not {yes, no} & set(best.ids.tolist())
    words = [t for t in range(logits.size) if vocabulary.piece(t) in (b"yes", b"no", b"ye")]
    logits[words] = -3.0
    assert sampler.choose(best, lambda: logits) == no


def test_a_lazy_grammar_leaves_the_answer_free_until_its_trigger(vocabulary: Vocabulary) -> None:
    """Before "CALL" everything may come; after it only what the grammar says."""
    lazy = Grammar('root ::= "CALL(" [0-9]+ ")"', triggers=(r"[\s\S]*?(CALL)[\s\S]*",))
    sampler = Sampler(GREEDY, vocabulary, grammar=lazy)
    logits = np.zeros(vocabulary.n_tokens, np.float32)
    (free,) = vocabulary.tokenize("g", add_bos=False)
    logits[free] = 5.0
    for token in vocabulary.tokenize("a goat: CAL", add_bos=False):
        assert sampler.choose(whole(logits), lambda: logits) == free
        sampler.accept(token)
    for token in vocabulary.tokenize("L", add_bos=False):
        sampler.accept(token)
    text = b""
    for _ in range(3):
        token = sampler.choose(whole(logits), lambda: logits)
        sampler.accept(token)
        text += vocabulary.piece(token)
    assert re.fullmatch(rb"\([0-9]+\)?", text)


def test_a_lazy_grammar_can_be_triggered_by_a_token(vocabulary: Vocabulary) -> None:
    """From the token on, the grammar binds."""
    (call,) = vocabulary.tokenize("C", add_bos=False)
    lazy = Grammar('root ::= "C" [0-9]', trigger_tokens=(call,))
    sampler = Sampler(GREEDY, vocabulary, grammar=lazy)
    logits = np.zeros(vocabulary.n_tokens, np.float32)
    logits[call] = 5.0
    assert sampler.choose(whole(logits), lambda: logits) == call
    sampler.accept(call)
    token = sampler.choose(whole(logits), lambda: logits)
    assert re.fullmatch(rb"[0-9]", vocabulary.piece(token))


@pytest.mark.parametrize("gbnf", ["root ::= (", "nothing ::= [a]", "root ::= other"])
def test_a_grammar_that_cannot_be_read_is_refused(vocabulary: Vocabulary, gbnf: str) -> None:
    """It is the caller's mistake, and the process lives."""
    with pytest.raises(UsageError, match="the grammar cannot be read"):
        Sampler(GREEDY, vocabulary, grammar=Grammar(gbnf))


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": math.nan}, "temperature nan"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 1.01}, "top_p 1.01"),
        ({"top_p": -0.5}, "top_p -0.5"),
        ({"top_p": math.nan}, "top_p nan"),
        ({"min_p": 2.0}, "min_p 2"),
        ({"typical_p": -1.0}, "typical_p -1"),
        ({"top_n_sigma": -2.0}, "top_n_sigma -2"),
        ({"repeat_penalty": 0.0}, "repeat_penalty 0"),
        ({"repeat_last_n": -2}, "repeat_last_n -2"),
        ({"frequency_penalty": math.nan}, "frequency_penalty nan"),
        ({"presence_penalty": math.inf}, "presence_penalty inf"),
        ({"dry_base": 0.5}, "dry_base 0.5"),
        ({"dry_penalty_last_n": -2}, "dry_penalty_last_n -2"),
        ({"xtc_probability": 1.5}, "xtc_probability 1.5"),
        ({"mirostat": 3}, "mirostat 3"),
        ({"mirostat_tau": -1.0}, "mirostat_tau -1"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, r"seed 9.22337e\+18"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    parameters: dict[str, float], named: str
) -> None:
    """The parameter and the value are named, with the range."""
    wanted = r"give a (number (from [0-9-]|of [0-9.-]+ or more)|finite number)"
    with pytest.raises(UsageError, match=rf"^{named} makes no sense: {wanted}"):
        Sampling(**parameters)  # type: ignore[arg-type]  # the point of it


@pytest.mark.parametrize("bias", [math.nan, math.inf])
def test_a_bias_that_is_no_number_is_refused(bias: float) -> None:
    """Only -inf has a meaning."""
    with pytest.raises(UsageError, match="logit_bias"):
        Sampling(logit_bias={1: bias})
