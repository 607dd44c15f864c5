"""Top-k over the ranks: from slices of logits to the most likely tokens of the whole vocabulary.

Pure. Every rank reports the top k of its slice with the slice's log-sum-exp; the union of these holds
the top k of all, because a token outside of its slice's top k is outside of the top k altogether.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dure.engine.arrays import Floats, Ints
from dure.engine.compute.native import address_of, library
from dure.engine.executor import Adjustment, TopK

__all__ = ["SliceTopK", "adjust", "merge_top_k", "slice_top_k"]

SliceTopK = tuple[Ints, Floats, float]
"""Ids in the whole vocabulary (int32 [k]), logits (float32 [k]), log-sum-exp of the slice."""


def adjust(logits: Floats, change: Adjustment | None, first_id: int) -> None:
    """Apply an adjustment in place to a slice whose first token has `first_id`. logits: float32 [n]."""
    if change is None:
        return
    local = change.ids - np.int32(first_id)
    mine = (local >= 0) & (local < logits.size)
    at = local[mine]
    x = logits[at] + change.before[mine]
    repeat = change.repeat[mine]
    logits[at] = np.where(x <= 0, x * repeat, x / repeat) + change.after[mine]


def slice_top_k(logits: Floats, k: int, first_id: int) -> SliceTopK:
    """Choose the top k of a slice whose first token has `first_id`, in no order.

    logits: float32 [n], contiguous. Of equal logits the lower id. The log-sum-exp is NaN for k = 1.
    """
    n = min(k, logits.size)
    ids, top = np.empty(n, np.int32), np.empty(n, np.float32)
    log_sum_exp = library().dure_top_k(
        *(address_of(logits), logits.size, n, first_id, address_of(ids), address_of(top), k > 1)
    )
    return ids, top, log_sum_exp


def merge_top_k(slices: Sequence[SliceTopK], k: int, n_vocab: int) -> TopK:
    """Choose the top k of all slices, highest first; of equal logits the lower id first."""
    if k == 1:  # a greedy answer's every token
        ids, logits, _ = max(slices, key=lambda top: (float(top[1][0]), -int(top[0][0])))
        return TopK(ids, logits, math.nan, whole=n_vocab == 1)
    ids = np.concatenate([s[0] for s in slices])
    logits = np.concatenate([s[1] for s in slices])
    order = np.lexsort((ids, -logits))[:k]
    sums = [log_sum_exp for _, top, log_sum_exp in slices if top.max() > -np.inf]
    log_sum_exp = float(np.logaddexp.reduce(sums))
    return TopK(ids[order], logits[order], log_sum_exp, whole=len(order) == n_vocab)
