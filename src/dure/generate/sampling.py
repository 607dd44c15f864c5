"""Choose the next token from the best of the vocabulary, exactly as from all of it.

Pure but for the random numbers, which a seed repeats.
The ranks report the best 256 logits with the log-sum-exp of all. Where these decide the choice
(greedy, top-k within them, top-p or min-p that close within them) nothing else is needed; where they do
not, the whole logits are asked for. Filters come in llama.cpp's order: top-k, top-p, min-p, temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dure.engine.executor import BEST, Candidates, Floats
from dure.errors import UsageError

__all__ = ["Sampler", "Sampling"]


@dataclass(frozen=True)
class Sampling:
    """How to choose. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch a filter off."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None

    def __post_init__(self) -> None:
        _check("temp", self.temperature, 0.0, math.inf)
        _check("top-k", self.top_k, 0, math.inf)
        _check("top-p", self.top_p, 0.0, 1.0)
        _check("min-p", self.min_p, 0.0, 1.0)
        _check("seed", self.seed or 0, 0, 2**63)

    @property
    def n_best(self) -> int:
        """How many candidates a step should report, so that the choice is mostly decided."""
        if self.temperature == 0:
            return 1
        return self.top_k if 1 < self.top_k <= BEST else BEST


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high or math.isinf(value):
        wanted = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        raise UsageError(f"--{name} {value:g} makes no sense: give a number {wanted}")


class Sampler:
    """Chooses one sequence's tokens. The same seed and logits give the same tokens."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, best: Candidates, whole: Callable[[], Floats]) -> int:
        """The next token. `whole` fetches all logits, float32 [n_vocab]; called only if needed."""
        if self._sampling.temperature == 0:
            return int(best.ids[0])
        kept = keep(best, self._sampling)
        if kept is None:
            kept = keep(_all_of(whole()), self._sampling)
            assert kept is not None, "all logits decide every choice"
        logits = kept.logits.astype(np.float64)
        with np.errstate(over="ignore"):  # a temperature near 0: all but the best are -inf
            weights = np.exp((logits - logits.max()) / self._sampling.temperature)
        total = np.cumsum(weights)
        place = np.searchsorted(total, self._random.random() * total[-1], side="right")
        return int(kept.ids[min(place, len(kept.ids) - 1)])


def keep(best: Candidates, sampling: Sampling) -> Candidates | None:
    """What the filters leave of the whole vocabulary, or None where `best` cannot tell."""
    decided = best.whole
    if 0 < sampling.top_k <= len(best.ids):
        best, decided = _first(best, sampling.top_k), True
    elif sampling.top_k and not decided and sampling.top_p < 1:
        return None  # top-p counts the probabilities of the top-k, whose sum is not known
    relative = _probabilities(best, renormalize=decided)
    before = np.cumsum(relative) - relative  # of all that are better
    n_top_p = int(np.searchsorted(before, sampling.top_p, side="left"))
    n_min_p = int(np.count_nonzero(relative >= sampling.min_p * relative[0]))
    n = max(1, min(n_top_p if sampling.top_p < 1 else len(relative), n_min_p))
    reached = sampling.top_p < 1 and float(before[-1] + relative[-1]) >= sampling.top_p
    closes = n < len(relative) or reached
    return _first(best, n) if decided or closes else None


def _probabilities(best: Candidates, *, renormalize: bool) -> npt.NDArray[np.float64]:
    logits = best.logits.astype(np.float64)
    if renormalize:
        weights = np.exp(logits - logits[0])
        return np.asarray(weights / weights.sum())
    return np.asarray(np.exp(logits - best.log_sum_exp))


def _first(best: Candidates, n: int) -> Candidates:
    return Candidates(best.ids[:n], best.logits[:n], best.log_sum_exp, best.whole)


def _all_of(logits: Floats) -> Candidates:
    ids = np.argsort(-logits, kind="stable").astype(np.int32)
    largest = float(logits.max())
    log_sum_exp = largest + math.log(float(np.exp(logits.astype(np.float64) - largest).sum()))
    return Candidates(ids, logits[ids], log_sum_exp, whole=True)
