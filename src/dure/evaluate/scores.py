"""Scores of a model's windows, alone or beside its original, and what they add up to.

Knows perplexity, KL divergence and agreement. Refuses to know files and how a model is started.
Source: llama.cpp `tools/perplexity`, which counts the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from dure.engine.arrays import Ints
from dure.engine.executor import Executor
from dure.evaluate.logits import log_sum_exp, rows_of
from dure.evaluate.reference import KeptWindow, row_divergence
from dure.evaluate.statistics import Doubles, Estimate, bootstrapped, mean_of_windows

__all__ = ["Divergence", "WindowScores", "perplexity_of"]


class _Stored(msgspec.Struct, array_like=True):
    nll: bytes
    divergences: bytes
    agrees: bytes


@dataclass(frozen=True)
class WindowScores:
    """What a model does with the scored tokens of one window, n of them.

    nll: float64 [n], negative log-probabilities of the tokens that came. Beside an original, too:
    divergences: float64 [n], KL divergence from it in nats; agrees: bool [n], the likeliest token is the
    same. Empty without one.
    """

    nll: Doubles
    divergences: Doubles
    agrees: npt.NDArray[np.bool_]

    @classmethod
    def of(
        cls, executor: Executor, tokens: Ints, first: int, original: KeptWindow | None = None
    ) -> Self:
        """Have a model read a window. tokens: int32 [n_ctx]."""
        following = tokens[first + 1 :].tolist()
        kept = original.rows() if original else [None] * len(following)
        nll, divergences, agrees = [], [], []
        rows = rows_of(executor, tokens, first)
        for token, row, (top, logits) in zip(following, kept, rows, strict=True):
            log_sum = log_sum_exp(logits)
            nll.append(log_sum - float(logits[token]))
            if row is not None:
                divergences.append(row_divergence(row, logits, log_sum))
                agrees.append(int(top.ids[0]) == int(row.ids[0]))
        return cls(np.array(nll), np.array(divergences), np.array(agrees, np.bool_))

    def packed(self) -> bytes:
        """Return it as a file has it."""
        parts = (self.nll, self.divergences, self.agrees)
        return msgspec.msgpack.encode(_Stored(*(part.tobytes() for part in parts)))

    @classmethod
    def unpacked(cls, data: bytes) -> Self:
        """Return what `packed` wrote."""
        stored = msgspec.msgpack.decode(data, type=_Stored)
        nll, divergences = (
            np.frombuffer(part, np.float64) for part in (stored.nll, stored.divergences)
        )
        return cls(nll, divergences, np.frombuffer(stored.agrees, np.bool_))


@dataclass(frozen=True)
class Divergence:
    """How far a model is from its original on a text.

    mean, median, percentile_99: of the KL divergence, in nats. agreement: the part of next words on which
    both find the same likeliest. perplexity_ratio: the model's by the original's.
    estimated: the probability, on average, of tokens whose part of the divergence is estimated from some.
    """

    mean: Estimate
    median: Estimate
    percentile_99: Estimate
    agreement: Estimate
    perplexity: Estimate
    original_perplexity: Estimate
    perplexity_ratio: Estimate
    estimated: float

    @classmethod
    def of(cls, scores: Sequence[WindowScores], originals: Sequence[tuple[Doubles, float]]) -> Self:
        """Add up. originals: of each window the original's nll, and its mean `KeptRow.rest` of a row."""
        divergences = np.stack([one.divergences for one in scores])
        agrees = np.stack([one.agrees for one in scores]).astype(np.float64)
        nll = np.stack([one.nll for one in scores])
        original_nll = np.stack([nll for nll, _ in originals])
        return cls(
            mean=mean_of_windows(divergences),
            median=bootstrapped(divergences, lambda drawn: float(np.median(drawn))),
            percentile_99=bootstrapped(divergences, lambda drawn: float(np.quantile(drawn, 0.99))),
            agreement=mean_of_windows(agrees),
            perplexity=_perplexity(nll),
            original_perplexity=_perplexity(original_nll),
            perplexity_ratio=_perplexity(nll - original_nll),
            estimated=float(np.mean([rest for _, rest in originals])),
        )


def perplexity_of(scores: Sequence[WindowScores]) -> Estimate:
    """Return the perplexity of a text."""
    return _perplexity(np.stack([one.nll for one in scores]))


def _perplexity(nll: Doubles) -> Estimate:
    return mean_of_windows(nll).transformed(math.exp)
