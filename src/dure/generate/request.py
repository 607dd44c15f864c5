"""A request for generation, and the events that answer it.

Knows plain values, which travel between the process that serves and the one that generates.
Refuses to know text, HTTP and how tokens are computed.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal

import msgspec

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.errors import ErrorRecord, ParameterError, UsageError

__all__ = [
    "NOBODY",
    "Done",
    "Embedded",
    "EngineStats",
    "Event",
    "Failed",
    "FinishReason",
    "Grammar",
    "ModelInfo",
    "Owner",
    "OwnerStats",
    "PrefillProgress",
    "PromptLogits",
    "PromptLogprobs",
    "RankPlace",
    "Request",
    "Sampling",
    "Timings",
    "Token",
    "check_adapters",
    "check_tokens",
]

FinishReason = Literal["stop", "length", "cancelled"]


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The parameters of sampling, in the terms of llama.cpp's samplers.

    temperature 0 is greedy. These values turn a sampler off: top_k 0, top_p 1, min_p 0, typical_p 1,
    top_n_sigma -1, repeat_penalty 1, frequency_penalty 0, presence_penalty 0, dry_multiplier 0,
    xtc_probability 0, mirostat 0. A window of -1 is the whole context.
    seed None is random; the same seed, prompt and parameters give the same tokens.
    logit_bias: by token id, what is added to its logit; -inf forbids the token.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    logit_bias: dict[int, float] = {}

    def __post_init__(self) -> None:
        """Check every parameter. Raises UsageError, which names the one that is out of range."""
        for name, (low, high) in _RANGES.items():
            _check(name, getattr(self, name), low, high)
        if self.seed is not None:
            _check("seed", self.seed, 0, 2**63 - 1)
        if any(math.isnan(bias) or bias == math.inf for bias in self.logit_bias.values()):
            raise ParameterError(
                "logit_bias", "logit_bias: every bias must be a number, or -inf to forbid the token"
            )


_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "top_n_sigma": (-1.0, math.inf),
    "repeat_penalty": (1e-3, math.inf),  # it divides
    "repeat_last_n": (-1, math.inf),
    "frequency_penalty": (-math.inf, math.inf),
    "presence_penalty": (-math.inf, math.inf),
    "dry_multiplier": (0.0, math.inf),
    "dry_base": (1.0, math.inf),
    "dry_allowed_length": (0, math.inf),
    "dry_penalty_last_n": (-1, math.inf),
    "xtc_probability": (0.0, 1.0),
    "xtc_threshold": (0.0, 1.0),
    "mirostat": (0, 2),
    "mirostat_tau": (0.0, math.inf),
    "mirostat_eta": (0.0, math.inf),
}


def _check(name: str, value: float, low: float, high: float) -> None:
    if low <= value <= high and math.isfinite(value):
        return
    if math.isinf(low):
        allowed = "a finite number"
    elif math.isinf(high):
        allowed = f"a number of {low:g} or more"
    else:
        allowed = f"a number from {low:g} to {high:g}"
    raise UsageError(f"{name} {value:g} makes no sense", f"give {allowed}")


class Grammar(msgspec.Struct, frozen=True, omit_defaults=True):
    """A GBNF grammar, in llama.cpp's syntax, that the answer must follow.

    With `triggers` it is lazy: the answer is free until its text matches one of these regular
    expressions; the first group of the match, or all of it, then begins what must follow the grammar.
    `trigger_tokens` likewise.
    """

    gbnf: str
    root: str = "root"
    triggers: tuple[str, ...] = ()
    trigger_tokens: tuple[int, ...] = ()

    @property
    def lazy(self) -> bool:
        """Tell whether the answer is free at first."""
        return bool(self.triggers or self.trigger_tokens)


class Owner(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose requests these are. weight: of its share of slots and tokens; a higher priority comes first."""

    name: str = ""
    weight: float = 1.0
    priority: int = 0


NOBODY = Owner()


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request for one answer.

    prompt: token ids. max_tokens: of the answer; None: up to the end of the context.
    n_logprobs: None, or how many of the top tokens come with each token, besides its own logprob.
    post_sampling: the logprobs are of what the samplers left, not of the model.
    prompt_logprobs: None, or how many of the top tokens come with each token of the prompt, besides its own
    logprob. prompt_logits: all logits of the prompt come instead of an answer.
    ignore_eos: go on if the model ends the answer. end_tokens: tokens that end it as well.
    cache_prompt: reuse the KV cache of prompts that begin alike, and leave this prompt's there.
    owner: whose request it is. group: the same for answers that were asked for together; "": none.
    answered: the tokens of the answer that an engine before this one gave; it goes on after them.
    embed: compute the prompt's embedding instead of an answer.
    return_points: lengths of the prompt at which others may leave it, ascending: its system message's end,
    where the next turn goes on. Empty: its end. adapters: what it is computed with.
    """

    id: str
    prompt: list[int]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    n_logprobs: int | None = None
    post_sampling: bool = False
    prompt_logprobs: int | None = None
    prompt_logits: bool = False
    grammar: Grammar | None = None
    ignore_eos: bool = False
    end_tokens: tuple[int, ...] = ()
    cache_prompt: bool = True
    owner: Owner = NOBODY
    group: str = ""
    answered: list[int] = []
    embed: bool = False
    return_points: tuple[int, ...] = ()
    adapters: AdapterSet = NO_ADAPTERS

    @property
    def reads_prompt(self) -> bool:
        """Tell whether logits of the prompt itself are asked for, and none of it was computed before."""
        return self.prompt_logits or (self.prompt_logprobs is not None and not self.answered)


def check_tokens(request: Request, n_vocab: int) -> None:
    """Check the tokens of a request. Raises UsageError if one is outside of a vocabulary of n_vocab."""
    for field, tokens in (
        ("prompt", request.prompt),
        ("logit_bias", request.sampling.logit_bias),
        ("end_tokens", request.end_tokens),
    ):
        wrong = next((token for token in tokens if not 0 <= token < n_vocab), None)
        if wrong is not None:
            raise ParameterError(
                field, f"{field}: there is no token {wrong}", f"only 0 to {n_vocab - 1}"
            )


def check_adapters(request: Request, loaded: Collection[int]) -> None:
    """Check the adapters of a request. Raises UsageError if one is not loaded."""
    for number, _ in request.adapters:
        if number not in loaded:
            are = f"there are {', '.join(map(str, sorted(loaded)))}"
            cure = are if loaded else "none is loaded: --lora FILE loads one"
            raise ParameterError("lora", f"lora: there is no adapter {number}", cure)


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an answer took; seconds. prompt_tokens: all of the prompt, the cached ones too.

    drafted: draft tokens that were verified; accepted: how many of these were accepted.
    """

    queue_s: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prompt_s: float = 0.0
    tokens: int = 0
    generate_s: float = 0.0
    compute_s: float = 0.0  # of the decode steps, mean over ranks; so are the next two
    sync_s: float = 0.0
    bytes_sent: float = 0.0
    drafted: int = 0
    accepted: int = 0

    @property
    def prompt_per_s(self) -> float:
        """Prompt tokens computed a second."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prompt_s if self.prompt_s else 0.0

    @property
    def n_steps(self) -> int:
        """Count the decode steps: the first token comes with the prompt."""
        return max(0, self.tokens - 1)

    @property
    def generated_per_s(self) -> float:
        """Generated tokens a second, without the first, which comes with the prompt."""
        return self.n_steps / self.generate_s if self.generate_s else 0.0


class _Event(msgspec.Struct, tag=True, array_like=True, frozen=True):
    id: str


class PrefillProgress(_Event, frozen=True):
    """How much of a prompt is prefilled: `processed` of `total` tokens, `cached` of them from before."""

    total: int
    cached: int
    processed: int
    elapsed_s: float


class Token(_Event, frozen=True):
    """The next token. logprob: its own; top: (token, logprob) of the likeliest, in this order."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Done(_Event, frozen=True):
    """The end of an answer. end_token: the one that the model ended it with, which is no part of it."""

    reason: FinishReason
    timings: Timings
    end_token: int | None = None


class Failed(_Event, frozen=True):
    """The end of a request that cannot be answered."""

    error: ErrorRecord


class Embedded(_Event, frozen=True):
    """The embedding of a prompt. values: float32 [n_embd], not normalized."""

    values: bytes


class PromptLogprobs(_Event, frozen=True):
    """What the model gives to tokens of the prompt, each as after those before it.

    start: the position of the first, 1 or more: nothing comes before the first of a prompt. logprobs: of
    each; tops: (token, logprob) of the likeliest for each, in this order.
    """

    start: int
    logprobs: tuple[float, ...]
    tops: tuple[tuple[tuple[int, float], ...], ...]


class PromptLogits(_Event, frozen=True):
    """All logits after some tokens of the prompt. start: the first; values: float32 [n, n_vocab]."""

    start: int
    values: bytes


Event = PrefillProgress | PromptLogprobs | PromptLogits | Token | Done | Embedded | Failed


class RankPlace(msgspec.Struct, frozen=True, array_like=True):
    """Where a rank runs, and what it holds. node: as the cluster names it, "" for this machine."""

    node: str
    host: str
    weights_bytes: int
    kv_bytes: int


class ModelInfo(msgspec.Struct, frozen=True):
    """The model that runs, as a server needs to know it. n_ctx: prompt and answer of one request.

    places: of its ranks.
    """

    path: str
    name: str
    architecture: str
    n_ctx: int
    n_ctx_train: int
    n_vocab: int
    n_embd: int
    n_sequences: int  # requests that run at once
    n_ranks: int
    threads: tuple[int, ...]
    weights_bytes: int
    n_params: int
    file_type: str  # the commonest tensor type, as "Q4_0"
    embeds: bool = True
    ranks: bool = False  # it says how well documents answer a query
    transport: str = ""  # how vectors get from rank to rank, for a person
    places: tuple[RankPlace, ...] = ()


class OwnerStats(msgspec.Struct, frozen=True, array_like=True):
    """Figures of one owner. pauses: how often an answer of it had to wait for another owner's.

    weight, priority: as its last request had them.
    """

    name: str
    running: int
    waiting: int
    prompt_tokens: int  # computed
    generated_tokens: int
    pauses: int
    weight: float = 1.0
    priority: int = 0


class EngineStats(msgspec.Struct, frozen=True, omit_defaults=True):
    """Figures of the engine since it started.

    kv_*: positions of the KV cache: used by running requests, kept for prompts that begin alike, in all.
    """

    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_kept: int = 0
    kv_total: int = 0
    prompt_tokens: int = 0  # computed
    prompt_s: float = 0.0
    generated_tokens: int = 0
    generate_s: float = 0.0
    cache_queries: int = 0  # prompt tokens that were looked up
    cache_hits: int = 0  # of these, found in the prefix cache
    steps: int = 0
    step_s: float = 0.0
    drafted: int = 0  # draft tokens verified, of answers that ended
    accepted: int = 0  # of these, accepted
    sync_s: tuple[float, ...] = ()  # of each rank, as the next five
    compute_s: tuple[float, ...] = ()
    lost_s: tuple[float, ...] = ()  # of its threads, to other programs
    bytes_sent: tuple[float, ...] = ()
    peak_bytes: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()  # that generate, in the last step
    owners: tuple[OwnerStats, ...] = ()
    sequences_held: int = 0  # by running requests and by the prefix cache
