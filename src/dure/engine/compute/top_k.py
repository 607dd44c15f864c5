"""From slices of logits to the best tokens of the whole vocabulary.

Pure. Every rank reports the best of its slice with the slice's log-sum-exp; the union of these holds
the best of all, because a token outside of its slice's best k is outside of the best k altogether.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dure.engine.compute.native import address_of, library
from dure.engine.executor import Adjustment, Candidates, Floats, Ints

__all__ = ["SliceBest", "adjust", "best_of_slice", "merge"]

SliceBest = tuple[Ints, Floats, float]  # ids in the whole vocabulary, logits, log-sum-exp


def adjust(logits: Floats, change: Adjustment | None, first_id: int) -> None:
    """Apply an adjustment to a slice whose first token has `first_id`, in place. logits: float32 [n]."""
    if change is None:
        return
    local = change.ids - np.int32(first_id)
    mine = (local >= 0) & (local < logits.size)
    at = local[mine]
    x = logits[at] + change.before[mine]
    repeat = change.repeat[mine]
    logits[at] = np.where(x <= 0, x * repeat, x / repeat) + change.after[mine]


def best_of_slice(logits: Floats, k: int, first_id: int) -> SliceBest:
    """The best k of a slice whose first token has `first_id`, in no order; of equal logits the lower id.

    logits: float32 [n], contiguous. The log-sum-exp is NaN for k = 1.
    """
    n = min(k, logits.size)
    ids, best = np.empty(n, np.int32), np.empty(n, np.float32)
    log_sum_exp = library().dure_top_k(
        *(address_of(logits), logits.size, n, first_id, address_of(ids), address_of(best), k > 1)
    )
    return ids, best, log_sum_exp


def merge(slices: Sequence[SliceBest], k: int, n_vocab: int) -> Candidates:
    """The best k of all slices, best first; of equal logits the lower id first."""
    if k == 1:  # a greedy answer's every token
        ids, logits, _ = max(slices, key=lambda best: (float(best[1][0]), -int(best[0][0])))
        return Candidates(ids, logits, math.nan, whole=n_vocab == 1)
    ids = np.concatenate([s[0] for s in slices])
    logits = np.concatenate([s[1] for s in slices])
    order = np.lexsort((ids, -logits))[:k]
    sums = [log_sum_exp for _, best, log_sum_exp in slices if best.max() > -np.inf]
    log_sum_exp = float(np.logaddexp.reduce(sums))
    return Candidates(ids[order], logits[order], log_sum_exp, whole=len(order) == n_vocab)
