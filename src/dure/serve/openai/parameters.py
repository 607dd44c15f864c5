"""The parameters of generation that chat, completions and llama-server's own completion share.

Knows their names, bounds and meaning, and which of them we refuse. Nothing is dropped silently:
a field is honoured, or its value means what we do anyway, or it is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from annotated_types import Ge, Le, MaxLen
from pydantic import Field

from dure.chat.task import GenerationOptions
from dure.errors import ParameterError
from dure.generate.request import Sampling
from dure.http.body import StrictModel
from dure.serve.state import ServerState

__all__ = ["GenerationParameters", "StreamOptions"]

INT32 = 2**31 - 1
NEVER = -1e9  # what llama-server and OpenAI's clients send to forbid a token is far above it

Count = Annotated[int, Ge(0), Le(INT32)]
Window = Annotated[int, Ge(-1), Le(INT32)]  # -1 is all of it
Fraction = Annotated[float, Ge(0.0), Le(1.0)]
Positive = Annotated[float, Ge(0.0), Le(1e9)]
Penalty = Annotated[float, Ge(-100.0), Le(100.0)]
Bias = Annotated[float, Ge(-1e9), Le(1e9)]
Text = Annotated[str, MaxLen(4096)]

BiasPair = Annotated[list[int | Text | float | Literal[False]], Field(min_length=2, max_length=2)]


class StreamOptions(StrictModel):
    """include_usage: a last chunk tells the usage. include_obfuscation: only false."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class GenerationParameters(StrictModel):
    """Fields whose absence, or null, is the server's default."""

    # Sampling, under llama-server's names and, where it has one, OpenAI's.
    temperature: Annotated[float, Ge(0.0), Le(100.0)] | None = None
    top_k: Window | None = Field(None, description="0 or -1: all tokens")
    top_p: Fraction | None = None
    min_p: Fraction | None = None
    typical_p: Fraction | None = None
    top_n_sigma: Annotated[float, Ge(-1.0), Le(1e6)] | None = None
    repeat_penalty: Annotated[float, Ge(0.0), Le(100.0)] | None = None
    repeat_last_n: Window | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    dry_multiplier: Positive | None = None
    dry_base: Positive | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: Annotated[list[Text], MaxLen(64)] | None = None
    xtc_probability: Fraction | None = None
    xtc_threshold: Fraction | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Positive | None = None
    mirostat_eta: Positive | None = None
    seed: Annotated[int, Ge(-1), Le(2**63 - 1)] | None = Field(None, description="-1: random")
    logit_bias: (
        dict[Text, Bias | Literal[False]] | Annotated[list[BiasPair], MaxLen(65536)] | None
    ) = Field(None, description="token or text to bias, as a map or as pairs; false forbids")

    stop: Text | Annotated[list[Text], MaxLen(64)] | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    n_predict: Annotated[int, Ge(-1), Le(INT32)] | None = Field(None, description="-1: no limit")
    max_tokens: Annotated[int, Ge(-1), Le(INT32)] | None = Field(
        None, description="-1: no limit; 0: only the prompt is computed, and kept"
    )
    n_probs: Annotated[int, Ge(0), Le(256)] | None = None
    grammar: Annotated[str, MaxLen(1_000_000)] | None = Field(None, description="GBNF")
    json_schema: dict[str, Any] | None = None

    stream: bool | None = None
    return_progress: bool | None = None
    timings_per_token: bool | None = None
    verbose: bool | None = None

    # What only tells where or for whom the work is done; nothing of the answer depends on it.
    model: Annotated[str, MaxLen(1024)] | None = None
    user: str | None = None
    id_slot: Annotated[int, Ge(-1), Le(INT32)] | None = None
    n_keep: Annotated[int, Ge(-1), Le(INT32)] | None = None  # nothing is ever shifted out

    # What llama-server has and we do not: only the values that ask for nothing.
    dynatemp_range: Literal[0, 0.0] | None = None  # type: ignore[valid-type]
    n_discard: Literal[0] | None = None
    n_indent: Literal[0] | None = None
    min_keep: Literal[0] | None = None
    t_max_predict_ms: Literal[-1, 0] | None = None
    post_sampling_probs: Literal[False] | None = None
    backend_sampling: Literal[False] | None = None
    lora: Annotated[list[Any], MaxLen(0)] | None = None

    MAX_NAMES: ClassVar[tuple[str, ...]] = ("max_tokens", "n_predict")

    def options(
        self, state: ServerState, owner: str, n_logprobs: int | None = None
    ) -> GenerationOptions:
        """How to generate. Raises ParameterError, UsageError naming the parameter."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerationOptions(
            sampling=self._sampling(state),
            max_tokens=self._max_tokens(),
            stop=tuple(text for text in stop if text),
            n_logprobs=n_logprobs if n_logprobs is not None else self.n_probs or None,
            ignore_eos=bool(self.ignore_eos),
            cache_prompt=self.cache_prompt is not False,
            owner=owner,
        )

    def _max_tokens(self) -> int | None:
        given = {name: n for name in self.MAX_NAMES if (n := getattr(self, name)) is not None}
        if len(set(given.values())) > 1:
            names = " and ".join(given)
            raise ParameterError(next(iter(given)), f"{names} say different things: give one")
        limit = next(iter(given.values()), -1)
        return None if limit < 0 else limit

    def _sampling(self, state: ServerState) -> Sampling:
        given: dict[str, Any] = {
            name: value for name in _SAMPLING if (value := getattr(self, name)) is not None
        }
        if given.get("top_k") == -1:
            given["top_k"] = 0
        if given.get("seed") == -1:
            given["seed"] = None
        if self.dry_sequence_breakers is not None:
            given["dry_sequence_breakers"] = tuple(self.dry_sequence_breakers)
        if self.logit_bias is not None:
            given["logit_bias"] = _biases(self.logit_bias, state)
        if not given:
            return state.sampling
        return msgspec.structs.replace(state.sampling, **given)


_OF_THEIR_OWN = {"dry_sequence_breakers", "logit_bias"}
_SAMPLING = tuple(name for name in Sampling.__struct_fields__ if name not in _OF_THEIR_OWN)


def _biases(given: Mapping[str, Any] | list[Any], state: ServerState) -> dict[int, float]:
    """Token to bias. A text biases each of its tokens."""
    pairs = given.items() if isinstance(given, Mapping) else [_pair(pair) for pair in given]
    biases: dict[int, float] = {}
    for key, value in pairs:
        bias = float("-inf") if value is False else float(value)
        for token in _bias_tokens(key, state):
            biases[token] = bias
    return biases


def _pair(pair: list[Any]) -> tuple[int | str, float | Literal[False]]:
    key, value = pair
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise ParameterError("logit_bias", f"logit_bias: {key!r} is neither a token nor a text")
    if value is not False and (isinstance(value, bool | str) or not abs(value) <= 1e9):
        raise ParameterError("logit_bias", f"logit_bias: {value!r} is neither a number nor false")
    return key, value


def _bias_tokens(key: int | str, state: ServerState) -> list[int]:
    if isinstance(key, str) and not _is_number(key):
        return state.vocabulary.tokenize(key, add_bos=False)
    token = int(key)
    state.check_tokens([token], "logit_bias")
    return [token]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12
