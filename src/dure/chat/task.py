"""A conversation to continue, and the events of its continuation, whatever API asked for it.

Every dialect (OpenAI chat and responses, Anthropic, Ollama) turns its request into a `ChatTask`, and
`ChatEvent`s into its own stream. Refuses to know HTTP.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from dure.engine.adapters import NO_ADAPTERS, AdapterSet
from dure.generate.request import NOBODY, Grammar, Owner, Request, Sampling, Timings

__all__ = [
    "ChatEvent",
    "ChatTask",
    "Content",
    "Finished",
    "GenerationOptions",
    "JsonObject",
    "JsonSchema",
    "NamedTool",
    "PromptProgress",
    "PromptScores",
    "Reasoning",
    "TokenLogprob",
    "Tool",
    "ToolArguments",
    "ToolCall",
]


@dataclass(frozen=True)
class Tool:
    """A function the model may call. parameters: a JSON schema; strict: arguments must follow it."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


@dataclass(frozen=True)
class NamedTool:
    """The model must call this tool."""

    name: str


@dataclass(frozen=True)
class JsonObject:
    """The answer must be a JSON object."""


@dataclass(frozen=True)
class JsonSchema:
    """The answer must be JSON that follows a schema."""

    schema: Mapping[str, Any]
    name: str = ""
    strict: bool = True


@dataclass(frozen=True)
class ChatTask:
    """What the model is given to answer.

    messages: as in OpenAI's chat API: role (system, developer, user, assistant, tool), content (text,
    None or parts), tool_calls, tool_call_id, reasoning_content.
    continue_last: the last message is an assistant's, and the answer goes on where it stops.
    add_generation: the prompt ends where the answer begins; without it, after the last message.
    grammar: the caller's own, as GBNF.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Tool] = ()
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    parallel_tool_calls: bool = True
    response_format: JsonObject | JsonSchema | None = None
    grammar: str | None = None
    enable_thinking: bool | None = None
    reasoning_effort: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    continue_last: bool = False
    add_generation: bool = True


@dataclass(frozen=True)
class GenerationOptions:
    """How an answer is generated. stop: texts that end it, and are not part of it.

    n_logprobs, post_sampling, prompt_logprobs: see `Request`. adapters: None: as the model is served.
    """

    sampling: Sampling = Sampling()  # noqa: RUF009 - it is frozen
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n_logprobs: int | None = None
    post_sampling: bool = False
    prompt_logprobs: int | None = None
    ignore_eos: bool = False
    cache_prompt: bool = True
    owner: Owner = NOBODY
    adapters: AdapterSet | None = None

    def request(
        self, prompt: list[int], grammar: Grammar | None, *, index: int = 0, group: str = ""
    ) -> Request:
        """Return the request for an answer. index: which of several; each has a seed of its own.

        group: of all of them, see `Request`.
        """
        return Request(
            id=uuid.uuid4().hex,
            prompt=prompt,
            sampling=_with_index(self.sampling, index),
            max_tokens=self.max_tokens,
            n_logprobs=self.n_logprobs,
            post_sampling=self.post_sampling,
            prompt_logprobs=self.prompt_logprobs,
            grammar=grammar,
            ignore_eos=self.ignore_eos,
            cache_prompt=self.cache_prompt,
            owner=self.owner,
            group=group,
            adapters=self.adapters or NO_ADAPTERS,
        )


def _with_index(sampling: Sampling, index: int) -> Sampling:
    if sampling.seed is None or index == 0:
        return sampling
    return msgspec.structs.replace(sampling, seed=(sampling.seed + index) % 2**63)


@dataclass(frozen=True)
class TokenLogprob:
    """A token's text, bytes and logprob (natural). The entries of `top` have no `top`."""

    text: str
    data: bytes
    logprob: float
    token: int
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class PromptProgress:
    """The prefill goes on: `processed` of `total` tokens, `cached` of them from the prefix cache."""

    total: int
    cached: int
    processed: int
    elapsed_s: float


@dataclass(frozen=True)
class PromptScores:
    """The logprobs of more tokens of the prompt, in its order; the first token of all has none."""

    logprobs: tuple[TokenLogprob, ...]


@dataclass(frozen=True)
class Content:
    """More of the answer's text. tokens: those it came from, if known."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Reasoning:
    """More of the text that the model thinks before it answers."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """The model begins to call a tool; `index` counts the answer's calls from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True)
class ToolArguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


@dataclass(frozen=True)
class Finished:
    """The end. stop_text: the stop string that was met, None if the model ended by itself."""

    reason: Literal["stop", "length", "tool_calls"]
    timings: Timings
    stop_text: str | None = None
    reasoning_tokens: int = 0


ChatEvent = PromptProgress | Content | Reasoning | ToolCall | ToolArguments | Finished
