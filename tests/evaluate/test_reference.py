"""What is kept of a distribution gives the whole KL divergence: exactly, or right on average."""

from __future__ import annotations

import numpy as np

from dure.engine.executor import Floats, TopK
from dure.evaluate.logits import log_sum_exp
from dure.evaluate.reference import MOST_BEST, N_DRAWN, KeptRow, KeptWindow, row_divergence

RANDOM = np.random.default_rng(0)


def top_of(logits: Floats, k: int) -> TopK:
    ids = np.argsort(-logits, kind="stable")[:k].astype(np.int32)
    return TopK(ids, logits[ids], log_sum_exp(logits), whole=k == len(logits))


def divergence(p: Floats, q: Floats) -> float:
    """Compute it over the whole vocabulary, in float64."""
    log_p, log_q = (
        x.astype(np.float64) - np.logaddexp.reduce(x.astype(np.float64)) for x in (p, q)
    )
    return float(np.exp(log_p) @ (log_p - log_q))


def test_a_small_vocabulary_is_exact() -> None:
    """All logits are kept, so the divergence is that over the whole vocabulary."""
    p = RANDOM.normal(0, 3, 2000).astype(np.float32)
    q = p + RANDOM.normal(0, 0.5, 2000).astype(np.float32)
    row = KeptRow.of(top_of(p, 2000), p, 7, RANDOM)
    np.testing.assert_allclose(row_divergence(row, q, log_sum_exp(q)), divergence(p, q), rtol=1e-5)
    assert abs(row.nll - (np.logaddexp.reduce(p.astype(np.float64)) - p[7])) < 1e-5


def test_a_large_vocabulary_is_right_on_average() -> None:
    """Over many tokens the mean is the true one within 1 %, though a tenth is only drawn from."""
    true, found, rests = [], [], []
    for _ in range(300):
        p = RANDOM.normal(0, 2.2, 20_000).astype(np.float32)
        q = p + RANDOM.normal(0, 0.4, 20_000).astype(np.float32)
        row = KeptRow.of(top_of(p, MOST_BEST), p, 0, RANDOM)
        true.append(divergence(p, q))
        found.append(row_divergence(row, q, log_sum_exp(q)))
        rests.append(row.rest)
        assert len(row.ids) <= MOST_BEST + N_DRAWN
    assert np.mean(rests) > 0.1
    np.testing.assert_allclose(np.mean(found), np.mean(true), rtol=1e-2)


def test_a_model_is_no_nat_from_itself() -> None:
    """The divergence is 0 to the last bit, drawn tokens and all."""
    p = RANDOM.normal(0, 2, 20_000).astype(np.float32)
    row = KeptRow.of(top_of(p, MOST_BEST), p, 0, RANDOM)
    assert row.rest > 0.01
    assert row_divergence(row, p, log_sum_exp(p)) == 0.0


def test_a_sure_model_needs_few_tokens() -> None:
    """What has almost no probability together is not kept."""
    p = RANDOM.normal(0, 1, 20_000).astype(np.float32)
    p[[5, 6]] = 40, 39
    row = KeptRow.of(top_of(p, MOST_BEST), p, 5, RANDOM)
    assert row.n_best < 20
    assert list(row.ids[:2]) == [5, 6]


def test_a_window_is_read_back_as_it_was_kept() -> None:
    """Rows of unlike length come back one by one."""
    p = RANDOM.normal(0, 1, 100).astype(np.float32)
    rows = [KeptRow.of(top_of(p, k), p, 3, RANDOM) for k in (100, 40)]
    window = KeptWindow(
        np.array([len(row.ids) for row in rows], np.int32),
        np.array([row.n_best for row in rows], np.int32),
        np.concatenate([row.ids for row in rows]),
        np.concatenate([row.logits for row in rows]),
        np.array([row.rest for row in rows]),
        np.array([row.log_sum for row in rows]),
        np.array([row.nll for row in rows]),
    )
    for before, after in zip(rows, KeptWindow.unpacked(window.packed()).rows(), strict=True):
        np.testing.assert_array_equal(before.ids, after.ids)
        np.testing.assert_array_equal(before.logits, after.logits)
        assert (before.n_best, before.rest, before.nll) == (after.n_best, after.rest, after.nll)
