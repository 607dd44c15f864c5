"""What the original gives after each scored token: kept of one window, small enough for a disk.

Of a vocabulary of up to 4096 tokens all logits are kept. Of a larger one the likeliest tokens are, until
the others have together no more than a ten-thousandth of the probability, and at most 1024; and 256 of the
others, drawn by their probability. So the others' part of a KL divergence is an estimate, right on average:
in the mean over a few thousand tokens its error is far below the interval of the text itself.
Refuses to know files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np

from dure.engine.arrays import Floats, Ints
from dure.engine.executor import Executor, TopK
from dure.evaluate.logits import log_sum_exp, rows_of
from dure.evaluate.statistics import Doubles

__all__ = ["KeptRow", "KeptWindow", "most_bytes", "row_divergence"]

MOST_WHOLE = 4096  # tokens of a vocabulary
MOST_BEST = 1024
N_DRAWN = 256
_LEAST_BEST = 16
_REST = 1e-4  # of the probability, that tokens beyond the likeliest may have


@dataclass(frozen=True)
class KeptRow:
    """A distribution of the original.

    ids: int32 [n], logits: float32 [n]: of the `n_best` likeliest, in this order, then of those drawn.
    rest: the probability of all but the likeliest. log_sum: log(sum(exp)) of all logits.
    nll: the negative log-probability of the token that came.
    """

    ids: Ints
    logits: Floats
    n_best: int
    rest: float
    log_sum: float
    nll: float

    @classmethod
    def of(cls, top: TopK, logits: Floats, token: int, random: np.random.Generator) -> Self:
        """Keep what is needed of a row. token: that came."""
        log_sum = log_sum_exp(logits)
        nll = log_sum - float(logits[token])
        if top.whole:
            return cls(top.ids, top.logits, len(top.ids), 0.0, log_sum, nll)
        rests = 1 - np.cumsum(np.exp(top.logits.astype(np.float64) - log_sum))
        n_best = max(_LEAST_BEST, 1 + int(np.searchsorted(-rests, -_REST)))
        best = top.ids[:n_best]
        others = np.exp(logits - np.float32(log_sum))
        others[best] = 0
        sums = others.cumsum(dtype=np.float64)
        drawn = np.searchsorted(sums, random.random(N_DRAWN) * sums[-1], side="right")
        ids = np.concatenate([best, drawn.clip(max=len(logits) - 1).astype(np.int32)])
        return cls(ids, logits[ids], len(best), float(sums[-1]), log_sum, nll)


def row_divergence(row: KeptRow, logits: Floats, log_sum: float) -> float:
    """Return the KL divergence of a model from the original after one token, in nats.

    logits: float32 [n_vocab], the model's; log_sum: their log(sum(exp)).
    """
    log_p = row.logits.astype(np.float64) - row.log_sum
    lost = log_p - (logits[row.ids].astype(np.float64) - log_sum)
    best = float(np.exp(log_p[: row.n_best]) @ lost[: row.n_best])
    return best + (row.rest * float(lost[row.n_best :].mean()) if row.rest else 0.0)


class _Stored(msgspec.Struct, array_like=True):
    counts: bytes
    n_best: bytes
    ids: bytes
    logits: bytes
    rests: bytes
    log_sums: bytes
    nll: bytes


@dataclass(frozen=True)
class KeptWindow:
    """The rows of one window, n of them.

    counts: int32 [n], of each row's ids and logits; n_best: int32 [n]; rests, log_sums, nll: float64 [n].
    """

    counts: Ints
    n_best: Ints
    ids: Ints
    logits: Floats
    rests: Doubles
    log_sums: Doubles
    nll: Doubles

    @classmethod
    def of(cls, executor: Executor, tokens: Ints, first: int) -> Self:
        """Have the original read a window. tokens: int32 [n_ctx]."""
        n_vocab = executor.info.n_vocab
        n_best = n_vocab if n_vocab <= MOST_WHOLE else MOST_BEST
        random = np.random.default_rng(0)
        following = tokens[first + 1 :].tolist()
        rows = [
            KeptRow.of(top, logits, token, random)
            for token, (top, logits) in zip(
                following, rows_of(executor, tokens, first, n_best), strict=True
            )
        ]
        return cls(
            counts=np.array([len(row.ids) for row in rows], np.int32),
            n_best=np.array([row.n_best for row in rows], np.int32),
            ids=np.concatenate([row.ids for row in rows]),
            logits=np.concatenate([row.logits for row in rows]),
            rests=np.array([row.rest for row in rows]),
            log_sums=np.array([row.log_sum for row in rows]),
            nll=np.array([row.nll for row in rows]),
        )

    def rows(self) -> list[KeptRow]:
        """Return the distributions one by one."""
        ends = np.cumsum(self.counts)
        return [
            KeptRow(
                self.ids[start:end],
                self.logits[start:end],
                int(self.n_best[i]),
                float(self.rests[i]),
                float(self.log_sums[i]),
                float(self.nll[i]),
            )
            for i, (start, end) in enumerate(zip(ends - self.counts, ends, strict=True))
        ]

    def packed(self) -> bytes:
        """Return it as a file has it."""
        parts = (self.counts, self.n_best, self.ids, self.logits)
        doubles = (self.rests, self.log_sums, self.nll)
        return msgspec.msgpack.encode(_Stored(*(part.tobytes() for part in (*parts, *doubles))))

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        """Return what `packed` wrote."""
        stored = msgspec.msgpack.decode(data, type=_Stored)
        return cls(
            np.frombuffer(stored.counts, np.int32),
            np.frombuffer(stored.n_best, np.int32),
            np.frombuffer(stored.ids, np.int32),
            np.frombuffer(stored.logits, np.float32),
            np.frombuffer(stored.rests, np.float64),
            np.frombuffer(stored.log_sums, np.float64),
            np.frombuffer(stored.nll, np.float64),
        )


def most_bytes(n_rows: int, n_vocab: int) -> int:
    """Return how large a window can be on disk."""
    n_kept = n_vocab if n_vocab <= MOST_WHOLE else MOST_BEST + N_DRAWN
    return n_rows * (n_kept * 8 + 32) + 128
