"""llama.cpp's samplers, applied to candidates for the next token.

Knows how they are made, applied and freed. Refuses to know where the logits come from.
Random choices take their seed from the request's seed and the index of the token in the answer, so that
an answer can go on anywhere, in a new engine or in another batch, and stays the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from dure.engine.executor import Floats, Ints, TopK
from dure.errors import UsageError
from dure.generate.lazy_grammar import Trigger
from dure.generate.request import Grammar, Sampling
from dure.model.llama_log import captured_log, silence_llama
from dure.model.vocabulary import Vocabulary

__all__ = ["DryPenalties", "GrammarState", "SamplerChain", "TokenArray"]

_ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MASK = 0xFFFF_FFFF
_INT_MAX = 2**31 - 1  # ctypes would cut off what is above
_MAX_WINDOW = 1 << 20
FIRST_BLOCK = 64  # candidates that a grammar looks at first
BLOCK_GROWTH = 8
_RANDOM_SEED = 0xFFFF_FFFF  # llama.cpp takes this one for "choose a seed"


class TokenArray:
    """Tokens with logits, highest first, as llama.cpp's samplers take and change them."""

    def __init__(self, ids: Ints, logits: Floats, *, is_sorted: bool = True) -> None:
        self._entries = np.empty(len(ids), _ENTRY)
        self._entries["id"], self._entries["logit"] = ids, logits
        data = ctypes.cast(self._entries.ctypes.data, lib.llama_token_data_p)
        self._array = lib.llama_token_data_array(data, len(ids), -1, is_sorted)

    def apply(self, sampler: Any) -> None:
        """Let a sampler filter, change or choose."""
        lib.llama_sampler_apply(sampler, ctypes.byref(self._array))

    @property
    def left(self) -> npt.NDArray[Any]:
        """The remaining tokens: a structured array of id, logit, p."""
        address = ctypes.cast(self._array.data, ctypes.c_void_p).value or 0
        first = (address - self._entries.ctypes.data) // _ENTRY.itemsize  # XTC moves the pointer
        return self._entries[first : first + self._array.size]

    @property
    def chosen(self) -> int:
        """The token that was chosen; raises IndexError if none was."""
        if not 0 <= self._array.selected < self._array.size:
            raise IndexError("no token was chosen")
        return int(self.left["id"][self._array.selected])

    @property
    def logprobs(self) -> tuple[tuple[int, float], ...]:
        """The natural logprob of each remaining token that can be drawn, highest first."""
        left = np.sort(self.left, order="logit")[::-1]
        relative = left["logit"].astype(np.float64) - left["logit"][0]
        weights = np.exp(relative)
        logprobs = (relative - np.log(weights.sum()))[weights > 0]
        return tuple(zip(left["id"].tolist(), logprobs.tolist(), strict=False))


class _Owned:
    """A llama.cpp sampler that is freed with its owner."""

    def __init__(self, sampler: Any) -> None:
        self.pointer = sampler

    def __del__(self) -> None:
        if self.pointer:
            lib.llama_sampler_free(self.pointer)
            self.pointer = None


class SamplerChain:
    """One request's filters, in llama.cpp's order, and the draw at the end."""

    def __init__(self, sampling: Sampling, seed: int, n_vocab: int) -> None:
        self._sampling, self._seed = sampling, seed
        self._mirostat = _mirostat(sampling, seed, n_vocab)
        self._filters = [_Owned(made) for made in _filters(sampling)]
        self._temperature = _Owned(lib.llama_sampler_init_temp(sampling.temperature))

    def draw(self, candidates: TopK, index: int, *, filtered: bool = False) -> TokenArray:
        """Draw the answer's token number `index` from candidates; return what is left, with the choice.

        filtered: top-k to min-p have been applied already.
        """
        n = int(np.count_nonzero(candidates.logits > -np.inf))  # typical-p cannot take the others
        tokens = TokenArray(candidates.ids[:n], candidates.logits[:n])
        if self._mirostat is not None:
            tokens.apply(self._temperature.pointer)
            tokens.apply(self._mirostat.pointer)
            return tokens
        for sampler in () if filtered else self._filters:
            tokens.apply(sampler.pointer)
        self._exclude_top_choices(tokens, index)
        tokens.apply(self._temperature.pointer)
        dist = _Owned(lib.llama_sampler_init_dist(_seed_of(self._seed, 2 * index)))
        tokens.apply(dist.pointer)
        return tokens

    def _exclude_top_choices(self, tokens: TokenArray, index: int) -> None:
        s = self._sampling
        if s.xtc_probability > 0:
            seed = _seed_of(self._seed, 2 * index + 1)
            xtc = _Owned(lib.llama_sampler_init_xtc(s.xtc_probability, s.xtc_threshold, 1, seed))
            tokens.apply(xtc.pointer)


def _filters(s: Sampling) -> list[Any]:
    return [
        *([lib.llama_sampler_init_top_n_sigma(s.top_n_sigma)] if s.top_n_sigma > 0 else []),
        *([lib.llama_sampler_init_top_k(min(s.top_k, _INT_MAX))] if s.top_k > 0 else []),
        *([lib.llama_sampler_init_typical(s.typical_p, 1)] if s.typical_p < 1 else []),
        *([lib.llama_sampler_init_top_p(s.top_p, 1)] if s.top_p < 1 else []),
        *([lib.llama_sampler_init_min_p(s.min_p, 1)] if s.min_p > 0 else []),
    ]


def _mirostat(s: Sampling, seed: int, n_vocab: int) -> _Owned | None:
    first = _seed_of(seed, 0)
    if s.mirostat == 1:
        made = lib.llama_sampler_init_mirostat(
            n_vocab, first, s.mirostat_tau, s.mirostat_eta, min(100, n_vocab - 1)
        )
    elif s.mirostat == 2:
        made = lib.llama_sampler_init_mirostat_v2(first, s.mirostat_tau, s.mirostat_eta)
    else:
        return None
    return _Owned(made)


def _seed_of(seed: int, counter: int) -> int:
    """Mix a seed and a counter to 32 bits. Source: SplitMix64, Steele, Lea and Flood, 2014."""
    x = (seed + (counter + 1) * 0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF_FFFF
    x = ((x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    x = ((x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = (x ^ (x >> 31)) & _MASK
    return mixed if mixed != _RANDOM_SEED else 0


class DryPenalties:
    """The penalties of DRY: for tokens that would go on repeating the text."""

    def __init__(self, sampling: Sampling, vocabulary: Vocabulary) -> None:
        breakers = [text.encode() for text in sampling.dry_sequence_breakers]
        self._breakers = (ctypes.c_char_p * len(breakers))(*breakers)
        # llama.cpp allocates the window at once: no longer than a text can be
        n_max = vocabulary.n_ctx_train or _MAX_WINDOW
        last_n = sampling.dry_penalty_last_n
        self._sampler = _Owned(
            lib.llama_sampler_init_dry(
                vocabulary.pointer,
                sampling.dry_multiplier,
                sampling.dry_base,
                min(sampling.dry_allowed_length, _INT_MAX),
                n_max if last_n < 0 else min(last_n, n_max),
                self._breakers,
                len(breakers),
            )
        )

    def accept(self, token: int) -> None:
        """Append a token to the text."""
        lib.llama_sampler_accept(self._sampler.pointer, token)

    def of(self, ids: Ints) -> Floats:
        """Return what is added to the logit of each of these tokens: float32 [n], not above 0."""
        tokens = TokenArray(ids, np.zeros(len(ids), np.float32))
        tokens.apply(self._sampler.pointer)
        added = tokens.left[np.argsort(tokens.left["id"], kind="stable")]
        return np.asarray(added["logit"][np.searchsorted(added["id"], ids)], np.float32)


class GrammarState:
    """The state of an answer in its grammar. Raises UsageError if llama.cpp refuses the grammar."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        silence_llama()
        self._sampler = _Owned(_grammar_sampler(grammar, vocabulary))
        if not self._sampler.pointer:
            reason = "; ".join(captured_log()[-2:]) or "llama.cpp gives no reason"
            raise UsageError(f"the grammar cannot be read: {reason}")
        piece = partial(vocabulary.piece, special=True)
        self._awaited = (
            Trigger(grammar, piece) if grammar.lazy else None
        )  # the answer is free until then

    def allows(self, token: int) -> bool:
        """Tell whether the grammar allows a token next."""
        if self._awaited is not None:
            return True
        return bool(self._allowed(np.array([token], np.int32), np.zeros(1, np.float32)).size)

    def allowed(self, candidates: TopK, n: int | None = None) -> TopK:
        """Return the candidates that the grammar allows. n: enough; there may be more, all likelier.

        candidates: highest first. They are looked at in blocks: mostly the grammar allows one of the first.
        """
        if self._awaited is not None:
            return candidates
        found = []
        start = n_found = 0
        while start < len(candidates.ids) and (n is None or n_found < n):
            stop = len(candidates.ids) if n is None else max(FIRST_BLOCK, start * BLOCK_GROWTH)
            found.append(self._allowed(candidates.ids[start:stop], candidates.logits[start:stop]))
            n_found += found[-1].size
            start = stop
        all_ = np.concatenate(found)
        return TopK(
            np.ascontiguousarray(all_["id"]),
            np.ascontiguousarray(all_["logit"]),
            candidates.log_sum_exp,
            whole=True,
        )

    def accept(self, token: int) -> None:
        """Append a token, which must be allowed, to the answer."""
        tokens = [token] if self._awaited is None else self._awaited.feed(token)
        if tokens is None:
            return
        self._awaited = None
        for one in tokens:
            lib.llama_sampler_accept(self._sampler.pointer, one)

    def _allowed(self, ids: Ints, logits: Floats) -> npt.NDArray[Any]:
        tokens = TokenArray(ids, logits)
        tokens.apply(self._sampler.pointer)
        return tokens.left[tokens.left["logit"] > -np.inf]


def _grammar_sampler(grammar: Grammar, vocabulary: Vocabulary) -> Any:
    text, root = grammar.gbnf.encode(), grammar.root.encode()
    if not grammar.lazy:
        return lib.llama_sampler_init_grammar(vocabulary.pointer, text, root)
    return lib.llama_sampler_init_grammar_lazy_patterns(
        vocabulary.pointer, text, root, *_strings(grammar.triggers), *_tokens(grammar)
    )


def _strings(texts: Sequence[str]) -> tuple[Any, int]:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts)), len(texts)


def _tokens(grammar: Grammar) -> tuple[Any, int]:
    n = len(grammar.trigger_tokens)
    return (lib.llama_token * n)(*grammar.trigger_tokens), n
