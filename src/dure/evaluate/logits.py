"""What a model gives after each scored token of a window, row by row.

Knows how a window becomes steps of an executor. Refuses to know what is done with the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dure.engine.arrays import Floats, Ints
from dure.engine.executor import Batch, Executor, TopK
from dure.engine.kv import Forget, KvOp

__all__ = ["log_sum_exp", "rows_of"]


def rows_of(
    executor: Executor, tokens: Ints, first: int, top_k: int = 1, *, known: int = 0
) -> Iterator[tuple[TopK, Floats]]:
    """Yield the top k and all logits (float32 [n_vocab]) after each token from `first` on, but the last.

    tokens: int32 [n], of one text. known: of them, at most `first`, that sequence 0 holds already; the rest
    that it holds is forgotten. What was yielded is valid until the next.
    """
    info = executor.info
    stop = len(tokens) - 1
    kv: Sequence[KvOp] = [Forget(0, known)]
    for start in range(known, first, info.n_batch):
        _step(executor, tokens, start, min(start + info.n_batch, first), [], 1, kv)
        kv = []
    for start in range(first, stop, n := min(info.n_outputs, info.n_batch)):
        end = min(start + n, stop)
        outputs = range(end - start)
        tops = _step(executor, tokens, start, end, outputs, min(top_k, info.n_vocab), kv)
        kv = []
        for row in outputs:
            yield tops[row], executor.logits(row)


def _step(
    executor: Executor,
    tokens: Ints,
    start: int,
    end: int,
    outputs: Sequence[int],
    top_k: int,
    kv: Sequence[KvOp],
) -> tuple[TopK, ...]:
    batch = Batch(
        tokens[start:end],
        np.arange(start, end, dtype=np.int32),
        np.zeros(end - start, np.int32),
        outputs,
        top_k=top_k,
        kv=kv,
    )
    return executor.step(batch).rows


def log_sum_exp(logits: Floats) -> float:
    """Return log(sum(exp(logits))), to about 1e-7: the sum is of float64."""
    most = logits.max()
    return float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
