"""Choosing a token: from the ranks' best as from all logits, by llama.cpp's filters, as often as told."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dure.engine.best import best_of_slice, merge
from dure.engine.executor import BEST, Candidates
from dure.errors import UsageError
from dure.generate.sampling import Sampler, Sampling, keep

Floats = npt.NDArray[np.float32]
NEAR = (
    1e-4  # a rank's log-sum-exp is float32: who stands so near to a limit may fall on either side
)


def union(logits: Floats, sampling: Sampling, borders: list[int]) -> Candidates:
    """What comes back of a step when the vocabulary is cut at `borders`."""
    n_best = min(sampling.n_best, logits.size)
    edges = [0, *borders, logits.size]
    slices = [
        best_of_slice(np.ascontiguousarray(logits[a:b]), n_best, a) for a, b in pairwise(edges)
    ]
    return merge(slices, n_best, logits.size)


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


def reference_choice(logits: Floats, sampling: Sampling) -> tuple[int, float]:
    """The first token that a seed chooses of the whole logits, and how near it was to another."""
    ids, margin = reference_filters(logits, sampling)
    if sampling.temperature == 0:
        return ids[0], math.inf
    with np.errstate(over="ignore"):
        scaled = (logits[ids].astype(float) - float(logits[ids[0]])) / sampling.temperature
    borders = np.cumsum(softmax([max(x, -1e6) for x in scaled.tolist()]))
    drawn = np.random.default_rng(sampling.seed).random()
    near = float(np.abs(borders[:-1] - drawn).min(initial=1.0))
    return ids[int(np.argmax(borders > drawn))], min(margin, near * NEAR / 1e-9)


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-310, 1e-3, 0.3, 0.8, 1.0, 2.5, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 40, BEST, BEST + 1, 300, 700, 5000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[Floats, list[int]]:
    """Logits from flat to sharp, some with many equal ones, and where the vocabulary is cut."""
    n = draw(st.integers(1, 1500))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.standard_normal(n) * draw(st.sampled_from([0.01, 0.5, 2.0, 6.0, 30.0]))
    if draw(st.booleans()):
        logits = np.round(logits * 2) / 2
    borders = draw(st.lists(st.integers(1, n - 1), max_size=4, unique=True)) if n > 1 else []
    return logits.astype(np.float32), sorted(borders)


@settings(max_examples=400, deadline=None)
@given(vocabularies(), samplings)
def test_the_union_of_the_ranks_best_chooses_as_the_whole_vocabulary(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling
) -> None:
    """Whatever the logits, the cut and the parameters: the token is that of a plain reference."""
    logits, borders = vocabulary
    expected, margin = reference_choice(logits, sampling)
    assume(margin > NEAR)
    best = union(logits, sampling, borders)
    assert Sampler(sampling).choose(best, lambda: logits) == expected


@settings(max_examples=400, deadline=None)
@given(vocabularies(), samplings)
def test_what_the_filters_keep_is_what_llama_cpp_keeps_or_is_undecided(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling
) -> None:
    """From the ranks' best, `keep` leaves the reference's ids in its order, or says it cannot tell."""
    logits, borders = vocabulary
    assume(sampling.temperature > 0)
    expected, margin = reference_filters(logits, sampling)
    assume(margin > NEAR)
    kept = keep(union(logits, sampling, borders), sampling)
    if kept is not None:
        assert kept.ids.tolist() == expected
    else:
        assert logits.size > BEST


@settings(max_examples=200, deadline=None)
@given(vocabularies(), samplings)
def test_nothing_more_is_fetched_where_the_best_decide(
    vocabulary: tuple[Floats, list[int]], sampling: Sampling
) -> None:
    """Greedy choice and top-k up to 256 never ask for the whole logits."""
    logits, borders = vocabulary
    assume(sampling.temperature == 0 or 0 < sampling.top_k <= BEST)
    best = union(logits, sampling, borders)
    assert 0 <= Sampler(sampling).choose(best, never) < logits.size


def test_a_flat_vocabulary_is_fetched_whole() -> None:
    """Without filters that close, a token beyond the best 256 can be chosen."""
    logits = np.zeros(2000, np.float32)
    sampler = Sampler(Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=1))
    best = union(logits, Sampling(top_k=0), [500])
    chosen = {sampler.choose(best, lambda: logits) for _ in range(50)}
    assert max(chosen) > best.ids.max()


def test_a_high_temperature_brings_tokens_whose_probability_vanished() -> None:
    """Filters come before temperature: where they are off, all of the vocabulary takes part."""
    logits = np.linspace(0, -200, 300, dtype=np.float32)
    sampling = Sampling(temperature=1e6, top_k=0, top_p=1, min_p=0, seed=1)
    sampler, best = Sampler(sampling), union(logits, sampling, [100])
    chosen = {sampler.choose(best, lambda: logits) for _ in range(200)}
    assert max(chosen) >= BEST


def test_top_p_that_closes_within_the_best_fetches_nothing() -> None:
    """A sharp distribution needs no more than the union, even with top-k off."""
    logits = np.linspace(0, -200, 2000, dtype=np.float32)
    sampling = Sampling(top_k=0, top_p=0.9, min_p=0, seed=1)
    assert Sampler(sampling).choose(union(logits, sampling, [700]), never) < 20


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
    """20,000 draws fit softmax(logits / temperature) over what is kept, by the chi-square test."""
    logits = np.random.default_rng(7).normal(0, 1.5, 30).astype(np.float32)
    ids, _ = reference_filters(logits, sampling)
    expected = 20_000 * np.array(softmax([float(logits[i]) / sampling.temperature for i in ids]))
    sampler, best = Sampler(sampling), union(logits, sampling, [11, 20])
    drawn = np.bincount([sampler.choose(best, never) for _ in range(20_000)], minlength=30)
    assert drawn[ids].sum() == 20_000
    chi_square = float(((drawn[ids] - expected) ** 2 / expected).sum())
    freedom = len(ids) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_a_seed_repeats_and_no_seed_does_not() -> None:
    """Two samplers of one seed draw alike; without a seed they differ."""
    logits = np.zeros(1000, np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, top_k=200, top_p=1, min_p=0, seed=seed))
        best = union(logits, Sampling(top_k=200), [])
        return [sampler.choose(best, never) for _ in range(20)]

    assert draws(3) == draws(3)
    assert draws(3) != draws(4)
    assert draws(None) != draws(None)


def test_equal_logits_are_ordered_by_id_in_every_cut() -> None:
    """Greedy choice between equal tokens takes the lowest id, whichever rank holds it."""
    logits = np.array([0, 1, 3, 3, 3, 2], np.float32)
    greedy = Sampling(temperature=0)
    for borders in ([], [1], [3], [4], [2, 3], [1, 2, 3, 4, 5]):
        assert Sampler(greedy).choose(union(logits, greedy, borders), never) == 2


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"temperature": -0.1}, "--temp -0.1"),
        ({"temperature": math.nan}, "--temp nan"),
        ({"temperature": math.inf}, "--temp inf"),
        ({"top_k": -1}, "--top-k -1"),
        ({"top_p": 1.01}, "--top-p 1.01"),
        ({"top_p": -0.5}, "--top-p -0.5"),
        ({"top_p": math.nan}, "--top-p nan"),
        ({"min_p": 2.0}, "--min-p 2"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    parameters: dict[str, float], named: str
) -> None:
    """The option and the value are named, with the range."""
    with pytest.raises(
        UsageError, match=rf"^{named} makes no sense: give a number (from 0 to|of 0 or more)"
    ):
        Sampling(**parameters)  # type: ignore[arg-type]  # the point of it
