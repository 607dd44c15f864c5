"""llama.cpp's samplers, applied to the tokens that are left to choose from.

Knows how they are made, applied and freed. Refuses to know where the logits come from.
Random choices take their seed from the request's seed and the place of the token, so that an answer
can be taken up anywhere, after a lost engine or in another batch, and stays the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from dure.engine.executor import Floats, Ints, TopK
from dure.errors import UsageError
from dure.generate.request import Grammar, Sampling
from dure.model.llama_log import captured_log, silence_llama
from dure.model.vocabulary import Vocabulary

__all__ = ["Chain", "DryPenalties", "GrammarState", "TokenArray"]

_ENTRY = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_MASK = 0xFFFF_FFFF
_INT_MAX = 2**31 - 1  # ctypes would cut off what is above
_LONGEST_WINDOW = 1 << 20
_RANDOM_SEED = 0xFFFF_FFFF  # llama.cpp takes this one for "choose a seed"


class TokenArray:
    """Tokens with logits, best first, as llama.cpp's samplers take and change them."""

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
        """What is left: a structured array of id, logit, p."""
        at = ctypes.cast(self._array.data, ctypes.c_void_p).value or 0
        first = (at - self._entries.ctypes.data) // _ENTRY.itemsize  # XTC moves the pointer
        return self._entries[first : first + self._array.size]

    @property
    def chosen(self) -> int:
        """The token that was chosen; raises IndexError where none was."""
        if not 0 <= self._array.selected < self._array.size:
            raise IndexError("no token was chosen")
        return int(self.left["id"][self._array.selected])


class _Owned:
    """A llama.cpp sampler that is freed with its owner."""

    def __init__(self, sampler: Any) -> None:
        self.pointer = sampler

    def __del__(self) -> None:
        if self.pointer:
            lib.llama_sampler_free(self.pointer)
            self.pointer = None


class Chain:
    """One request's filters, in llama.cpp's order, and the draw at the end."""

    def __init__(self, sampling: Sampling, seed: int, n_vocab: int) -> None:
        self._sampling, self._seed = sampling, seed
        self._mirostat = _mirostat(sampling, seed, n_vocab)
        self._filters = [_Owned(made) for made in _filters(sampling)]
        self._temperature = _Owned(lib.llama_sampler_init_temp(sampling.temperature))

    def draw(self, best: TopK, place: int, *, filtered: bool = False) -> int:
        """A token of `best` for the answer's place.

        filtered: top-k to min-p have been applied already.
        """
        n = int(np.count_nonzero(best.logits > -np.inf))  # typical-p stumbles over the others
        tokens = TokenArray(best.ids[:n], best.logits[:n])
        if self._mirostat is not None:
            tokens.apply(self._temperature.pointer)
            tokens.apply(self._mirostat.pointer)
            return tokens.chosen
        for sampler in () if filtered else self._filters:
            tokens.apply(sampler.pointer)
        self._exclude_top_choices(tokens, place)
        tokens.apply(self._temperature.pointer)
        dist = _Owned(lib.llama_sampler_init_dist(_seed_of(self._seed, 2 * place)))
        tokens.apply(dist.pointer)
        return tokens.chosen

    def _exclude_top_choices(self, tokens: TokenArray, place: int) -> None:
        s = self._sampling
        if s.xtc_probability > 0:
            seed = _seed_of(self._seed, 2 * place + 1)
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
    """32 well mixed bits of a seed and a counter. Source: SplitMix64, Steele, Lea and Flood, 2014."""
    x = (seed + (counter + 1) * 0x9E37_79B9_7F4A_7C15) & 0xFFFF_FFFF_FFFF_FFFF
    x = ((x ^ (x >> 30)) * 0xBF58_476D_1CE4_E5B9) & 0xFFFF_FFFF_FFFF_FFFF
    x = ((x ^ (x >> 27)) * 0x94D0_49BB_1331_11EB) & 0xFFFF_FFFF_FFFF_FFFF
    mixed = (x ^ (x >> 31)) & _MASK
    return mixed if mixed != _RANDOM_SEED else 0


class DryPenalties:
    """What DRY takes off the logits of tokens that would go on repeating the text."""

    def __init__(self, sampling: Sampling, vocabulary: Vocabulary) -> None:
        breakers = [text.encode() for text in sampling.dry_sequence_breakers]
        self._breakers = (ctypes.c_char_p * len(breakers))(*breakers)
        # llama.cpp makes room for so many at once: no more than a text may have
        most = vocabulary.n_ctx_train or _LONGEST_WINDOW
        asked = sampling.dry_penalty_last_n
        self._sampler = _Owned(
            lib.llama_sampler_init_dry(
                vocabulary.pointer,
                sampling.dry_multiplier,
                sampling.dry_base,
                min(sampling.dry_allowed_length, _INT_MAX),
                most if asked < 0 else min(asked, most),
                self._breakers,
                len(breakers),
            )
        )

    def accept(self, token: int) -> None:
        """The text goes on with a token."""
        lib.llama_sampler_accept(self._sampler.pointer, token)

    def of(self, ids: Ints) -> Floats:
        """What is added to the logit of each of these tokens: float32 [n], not above 0."""
        tokens = TokenArray(ids, np.zeros(len(ids), np.float32))
        tokens.apply(self._sampler.pointer)
        added = tokens.left[np.argsort(tokens.left["id"], kind="stable")]
        return np.asarray(added["logit"][np.searchsorted(added["id"], ids)], np.float32)


class GrammarState:
    """How far an answer has come in its grammar. Raises UsageError where llama.cpp refuses it."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        silence_llama()
        self._sampler = _Owned(_grammar_sampler(grammar, vocabulary))
        if not self._sampler.pointer:
            said = "; ".join(captured_log()[-2:])
            raise UsageError(f"the grammar cannot be read: {said or 'llama.cpp gives no reason'}")

    def allows(self, token: int) -> bool:
        """Whether the answer may go on with this token."""
        return bool(self._allowed(np.array([token], np.int32), np.zeros(1, np.float32)).size)

    def first_allowed(self, best: TopK) -> int | None:
        """The best of some tokens that is allowed."""
        allowed = self._allowed(best.ids, best.logits)
        return int(allowed["id"][0]) if allowed.size else None

    def masked(self, all_: TopK) -> TopK:
        """Of the whole vocabulary, best first, what is allowed."""
        allowed = self._allowed(all_.ids, all_.logits)
        return TopK(
            np.ascontiguousarray(allowed["id"]),
            np.ascontiguousarray(allowed["logit"]),
            all_.log_sum_exp,
            whole=True,
        )

    def accept(self, token: int) -> None:
        """The answer goes on with a token that is allowed."""
        lib.llama_sampler_accept(self._sampler.pointer, token)

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
