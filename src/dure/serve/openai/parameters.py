"""The parameters of generation that chat, completions and llama-server's own completion share.

Knows their names, bounds and meaning. What is not here is `fields`' matter.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le, MaxLen
from pydantic import AliasChoices, Field

from dure.engine.adapters import MOST_SCALE
from dure.http.request_model import BodyPart, RequestBody
from dure.serve.openai.fields import OPENAI_FIELDS

__all__ = ["MOST_ADAPTERS", "AdapterScale", "GenerationParameters", "OpenAIStreamOptions"]

INT32 = 2**31 - 1
MOST_ADAPTERS = 256

Count = Annotated[int, Ge(0), Le(INT32)]
Window = Annotated[int, Ge(-1), Le(INT32)]  # -1 is all of it
Probability = Annotated[float, Ge(0.0), Le(1.0)]
Positive = Annotated[float, Ge(0.0), Le(1e9)]
Penalty = Annotated[float, Ge(-100.0), Le(100.0)]
Bias = Annotated[float, Ge(-1e9), Le(1e9)]
ShortText = Annotated[str, MaxLen(4096)]

BiasPair = Annotated[
    list[int | ShortText | float | Literal[False]], Field(min_length=2, max_length=2)
]


class AdapterScale(BodyPart):
    """An adapter (LoRA) by its number in /lora-adapters, and how strongly it is used; 0: not at all."""

    id: Count
    scale: Annotated[float, Ge(-MOST_SCALE), Le(MOST_SCALE)]


class OpenAIStreamOptions(BodyPart):
    """include_usage: a last chunk has the usage."""

    include_usage: bool | None = None


class GenerationParameters(RequestBody):
    """Fields whose absence, or null, is the server's default."""

    FIELDS = OPENAI_FIELDS

    # Sampling, under llama-server's names and OpenAI's, if it has one.
    temperature: Annotated[float, Ge(0.0), Le(100.0)] | None = None
    top_k: Window | None = Field(None, description="0 or -1: all tokens")
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical_p: Probability | None = None
    top_n_sigma: Annotated[float, Ge(-1.0), Le(1e6)] | None = None
    repeat_penalty: Annotated[float, Ge(0.0), Le(100.0)] | None = Field(
        None, validation_alias=AliasChoices("repeat_penalty", "repetition_penalty")
    )
    repeat_last_n: Window | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    dry_multiplier: Positive | None = None
    dry_base: Positive | None = None
    dry_allowed_length: Count | None = None
    dry_penalty_last_n: Window | None = None
    dry_sequence_breakers: Annotated[list[ShortText], MaxLen(64)] | None = None
    xtc_probability: Probability | None = None
    xtc_threshold: Probability | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Positive | None = None
    mirostat_eta: Positive | None = None
    seed: Annotated[int, Ge(-1), Le(2**63 - 1)] | None = Field(None, description="-1: random")
    logit_bias: (
        dict[ShortText, Bias | Literal[False]] | Annotated[list[BiasPair], MaxLen(65536)] | None
    ) = Field(None, description="token or text to bias, as a map or as pairs; false forbids")

    stop: ShortText | Annotated[list[ShortText], MaxLen(64)] | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    n_predict: Annotated[int, Ge(-1), Le(INT32)] | None = Field(None, description="-1: no limit")
    max_tokens: Annotated[int, Ge(-1), Le(INT32)] | None = Field(
        None, description="-1: no limit; 0: only the prompt is computed, and kept"
    )
    n_probs: Annotated[int, Ge(0), Le(256)] | None = None
    post_sampling_probs: bool | None = Field(
        None, description="log probabilities are of what the samplers left, not of the model"
    )
    grammar: Annotated[str, MaxLen(1_000_000)] | None = Field(None, description="GBNF")
    json_schema: dict[str, Any] | None = None

    lora: Annotated[list[AdapterScale], MaxLen(MOST_ADAPTERS)] | None = Field(
        None,
        description="the adapters to use; without any named, as `model` or /lora-adapters says",
    )

    stream: bool | None = None
    return_progress: bool | None = None
    timings_per_token: bool | None = None
    verbose: bool | None = None

    model: Annotated[str, MaxLen(1024)] | None = Field(
        None, description="any; `model:adapter` has that adapter"
    )

    MAX_NAMES: ClassVar[tuple[str, ...]] = ("max_tokens", "n_predict")
