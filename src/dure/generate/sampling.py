"""Chooses the next token from the top logits, exactly as from those of the whole vocabulary.

The ranks report the top 256 logits with the log-sum-exp of all, after penalties and biases. If these
decide the choice (greedy, top-k within them, top-p or min-p that close within them) nothing else is
needed; if they do not (flat distributions, typical-p without top-k, mirostat, a grammar that refuses
the choice), all logits are fetched. The filters are llama.cpp's, in its order: top-n-sigma, top-k,
typical-p, top-p, min-p, XTC, temperature. Refuses to know which request a token is for.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dure.engine.executor import TOP_K, Adjustment, Floats, Ints, TopK
from dure.errors import ModelError
from dure.generate.llama_samplers import DryPenalties, GrammarState, SamplerChain, TokenArray
from dure.generate.request import Grammar, Sampling
from dure.model.vocabulary import Vocabulary

__all__ = ["GrammarEnd", "Sampler", "Sampling", "filter_top", "n_best_of"]

N_FOR_GRAMMAR = 64  # candidates, among which a grammar mostly allows one


class GrammarEnd(Exception):  # noqa: N818  # not an error: the answer is complete
    """No token may follow: the grammar has ended, or every token is forbidden."""


def n_best_of(sampling: Sampling, *, n_logprobs: int | None = None, grammar: bool = False) -> int:
    """Return how many candidates a step should report, so that they mostly decide the choice."""
    least = 1
    if n_logprobs is not None:
        least = max(2, n_logprobs)
    if grammar:
        least = max(least, N_FOR_GRAMMAR)
    if _is_greedy(sampling):
        return least
    return max(least, sampling.top_k if 1 < sampling.top_k <= TOP_K else TOP_K)


def _is_greedy(s: Sampling) -> bool:
    return s.temperature == 0 and s.typical_p == 1 and s.xtc_probability == 0


class Sampler:
    """Chooses one answer's tokens. The same seed, prompt and logits give the same tokens.

    context: the tokens before the answer, for penalties. forbidden: tokens that are never chosen.
    Raises UsageError if the grammar cannot be read.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocabulary: Vocabulary | None = None,
        *,
        context: Sequence[int] = (),
        grammar: Grammar | None = None,
        forbidden: Sequence[int] = (),
        n_logprobs: int | None = None,
        n_vocab: int = 0,
    ) -> None:
        self.sampling = sampling
        self.n_best = n_best_of(sampling, n_logprobs=n_logprobs, grammar=grammar is not None)
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._chain = SamplerChain(sampling, seed, n_vocab)
        self._bias = {**sampling.logit_bias, **dict.fromkeys(forbidden, -math.inf)}
        self._history = list(context)
        self._n_answered = 0
        self._grammar = self._dry = None
        if grammar is not None:
            assert vocabulary is not None, "a grammar speaks of texts"
            self._grammar = GrammarState(grammar, vocabulary)
        if sampling.dry_multiplier > 0 and sampling.dry_penalty_last_n != 0:
            assert vocabulary is not None, "DRY's breakers are texts"
            self._dry = DryPenalties(sampling, vocabulary)
            for token in self._history:
                self._dry.accept(token)
        self._last_draw: TokenArray | int = -1  # what the last token was drawn from
        self._has_penalties = _has_penalties(sampling)
        self._fixed = None if self._has_penalties or self._dry else self._adjustment()

    def choose(self, top: TopK, all_logits: Callable[[], Floats]) -> int:
        """Return the next token. all_logits: fetches float32 [n_vocab], and is called only if needed.

        Choosing does not change anything: `accept` does. Only mirostat adapts to its own choices, so an
        answer that goes on in a new engine goes on with a new mirostat.
        Raises GrammarEnd; ModelError if a logit is no number.
        """
        if math.isnan(top.logits[0]):
            raise ModelError("the model computed a logit that is no number", "is the file damaged?")
        if top.logits[0] == -math.inf:
            raise GrammarEnd
        token = self._draw(top, all_logits)
        if self._grammar is None or self._grammar.allows(token):
            return token
        return self._choose_allowed(self._grammar, top, all_logits)

    def drawn_from(self) -> tuple[tuple[int, float], ...]:
        """Return what the last token was drawn from: tokens with natural logprobs, highest first."""
        if isinstance(self._last_draw, int):
            return ((self._last_draw, 0.0),)
        return self._last_draw.logprobs

    def accept(self, token: int) -> None:
        """Append a token to the answer."""
        self._n_answered += 1
        self._history.append(token)
        if self._dry is not None:
            self._dry.accept(token)
        if self._grammar is not None:
            self._grammar.accept(token)

    def _draw(self, top: TopK, all_logits: Callable[[], Floats]) -> int:
        if _is_greedy(self.sampling):
            return self._take(top)
        if self._decides(top):
            return self._draw_from(top)
        filtered = None if self._needs_all() else filter_top(top, self.sampling)
        if filtered is not None:
            return self._draw_from(filtered, filtered=True)
        return self._draw_from(_all_of(all_logits()))

    def _take(self, likeliest_first: TopK) -> int:
        self._last_draw = int(likeliest_first.ids[0])
        return self._last_draw

    def _draw_from(self, candidates: TopK, *, filtered: bool = False) -> int:
        drawn = self._chain.draw(candidates, self._n_answered, filtered=filtered)
        self._last_draw = drawn
        return drawn.chosen

    def _decides(self, top: TopK) -> bool:
        """Tell whether the filters would see no more of the whole vocabulary than of `top`."""
        return top.whole or (not self._needs_all() and 0 < self.sampling.top_k <= len(top.ids))

    def _needs_all(self) -> bool:
        s = self.sampling
        flat = s.typical_p < 1 and not 0 < s.top_k <= TOP_K
        return flat or s.top_n_sigma > 0 or s.mirostat > 0

    def _choose_allowed(
        self, grammar: GrammarState, top: TopK, all_logits: Callable[[], Floats]
    ) -> int:
        n = self._n_deciding()
        allowed = grammar.allowed(top, n) if n or top.whole else None
        if allowed is None or (not top.whole and len(allowed.ids) < (n or 0)):
            allowed = grammar.allowed(_all_of(all_logits()), n)
        if not allowed.ids.size:
            raise GrammarEnd
        if _is_greedy(self.sampling):
            return self._take(allowed)
        return self._draw_from(allowed)

    def _n_deciding(self) -> int | None:
        """Return how many of the likeliest candidates decide the choice; None: all."""
        if _is_greedy(self.sampling):
            return 1
        return None if self._needs_all() else self.sampling.top_k or None

    @property
    def is_slow(self) -> bool:
        """Tell whether choosing may take long."""
        return self._grammar is not None

    # ------------------------------------------------------------ penalties and biases

    @property
    def can_draft(self) -> bool:
        """Tell whether logits after draft tokens can be adjusted: DRY's state changes with each token."""
        return self._dry is None

    def adjustment(self, drafts: Sequence[int] = ()) -> Adjustment | None:
        """Return what to change of the logits before the top ones are chosen.

        drafts: draft tokens between the answer so far and the token that these logits are for.
        """
        if self._has_penalties or self._dry is not None:
            return self._adjustment(drafts)
        return self._fixed

    def _adjustment(self, drafts: Sequence[int] = ()) -> Adjustment | None:
        counts = self._counts(drafts)
        dry = np.unique(np.array(self._history, np.int32)) if self._dry else np.zeros(0, np.int32)
        ids = np.array(sorted({*self._bias, *counts, *dry.tolist()}), np.int32)
        if not ids.size:
            return None
        s = self.sampling
        before = np.array([self._bias.get(i, 0.0) for i in ids.tolist()], np.float32)
        n = np.array([counts.get(i, 0) for i in ids.tolist()], np.float32)
        after = -(n * np.float32(s.frequency_penalty) + (n > 0) * np.float32(s.presence_penalty))
        repeat = np.where(n > 0, np.float32(s.repeat_penalty), np.float32(1))
        if self._dry is not None:
            after[np.searchsorted(ids, dry)] += self._dry.of(dry)
        return Adjustment(ids, before, repeat.astype(np.float32), after.astype(np.float32))

    def _counts(self, drafts: Sequence[int]) -> dict[int, int]:
        """Count each token in the window of the penalties."""
        if not self._has_penalties:
            return {}
        last_n = self.sampling.repeat_last_n
        text = [*self._history, *drafts] if drafts else self._history
        window = text if last_n < 0 else text[-last_n:]
        ids, counts = np.unique(np.array(window, np.int32), return_counts=True)
        return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _has_penalties(s: Sampling) -> bool:
    off = s.repeat_penalty == 1 and s.frequency_penalty == 0 and s.presence_penalty == 0
    return not off and s.repeat_last_n != 0


def filter_top(top: TopK, sampling: Sampling) -> TopK | None:
    """Return what top-k, top-p and min-p leave of the vocabulary; None if `top` does not decide that."""
    decided = top.whole
    if 0 < sampling.top_k <= len(top.ids):
        top, decided = _first(top, sampling.top_k), True
    elif sampling.top_k and not decided and sampling.top_p < 1:
        return None  # top-p adds up the probabilities of the top-k, whose sum is not known
    relative = _probabilities(top, renormalize=decided)
    before = np.cumsum(relative) - relative  # of all likelier tokens
    n_top_p = int(np.searchsorted(before, sampling.top_p, side="left"))
    n_min_p = int(np.count_nonzero(relative >= sampling.min_p * relative[0]))
    n = max(1, min(n_top_p if sampling.top_p < 1 else len(relative), n_min_p))
    reached = sampling.top_p < 1 and float(before[-1] + relative[-1]) >= sampling.top_p
    closes = n < len(relative) or reached
    return _first(top, n) if decided or closes else None


def _probabilities(top: TopK, *, renormalize: bool) -> npt.NDArray[np.float64]:
    logits = top.logits.astype(np.float64)
    if renormalize:
        weights = np.exp(logits - logits[0])
        return np.asarray(weights / weights.sum())
    return np.asarray(np.exp(logits - top.log_sum_exp))


def _first(top: TopK, n: int) -> TopK:
    return TopK(top.ids[:n], top.logits[:n], top.log_sum_exp, top.whole)


def _all_of(logits: Floats) -> TopK:
    ids: Ints = np.argsort(-logits, kind="stable").astype(np.int32)
    largest = float(logits.max())
    log_sum_exp = largest + math.log(float(np.exp(logits.astype(np.float64) - largest).sum()))
    return TopK(ids, logits[ids], log_sum_exp, whole=True)
