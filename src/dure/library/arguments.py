"""What a program may say of an answer: the arguments of `generate` and `chat`, and what they mean.

Refuses to know how an answer is generated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from difflib import get_close_matches
from typing import Any, TypedDict, cast

import msgspec

from dure.chat.task import ChatTask, GenerationOptions, JsonSchema, NamedTool, Tool
from dure.chat.thinking import Think, asked_to_think
from dure.engine.adapters import AdapterSet
from dure.errors import UsageError
from dure.generate.request import Sampling

__all__ = [
    "AnswerArguments",
    "Messages",
    "Prompt",
    "SamplingArguments",
    "ToolArgument",
    "batch_of",
    "options_of",
    "task_of",
]

Prompt = str | Sequence[int]
"""A text, or its tokens."""

Messages = str | Sequence[Mapping[str, Any]]
ToolArgument = Mapping[str, Any] | Callable[..., Any]


class SamplingArguments(TypedDict, total=False):
    """The parameters of sampling that are seldom given; see `Sampling`."""

    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    repeat_penalty: float
    repeat_last_n: int
    frequency_penalty: float
    presence_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: tuple[str, ...]
    xtc_probability: float
    xtc_threshold: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    logit_bias: dict[int, float]


class AnswerArguments(SamplingArguments, total=False):
    """What `generate` and `chat` take besides."""

    max_tokens: int | None
    temperature: float | None
    seed: int | None
    stop: str | Sequence[str]
    logprobs: int | None
    json_schema: Mapping[str, Any] | None
    grammar: str | None
    lora: Mapping[int, float] | None


def options_of(
    call: Callable[..., Any],
    defaults: Sampling,
    sampling: Mapping[str, Any],
    *,
    max_tokens: int | None,
    stop: str | Sequence[str],
    logprobs: int | None,
    adapters: AdapterSet,
) -> GenerationOptions:
    """Return how to generate. call: what was called. sampling: what was given, None for what was not.

    Raises UsageError, and TypeError for a name that is no argument.
    """
    for name, number in (("max_tokens", max_tokens), ("logprobs", logprobs)):
        if number is not None and number < 0:
            raise UsageError(f"{name} {number}", "give a number of 0 or more")
    _check_names(call, sampling)
    given = {name: value for name, value in sampling.items() if value is not None}
    return GenerationOptions(
        sampling=msgspec.structs.replace(defaults, **given),
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        n_logprobs=logprobs,
        adapters=adapters,
    )


def _check_names(call: Callable[..., Any], given: Iterable[str]) -> None:
    """Raise TypeError, as Python does, for a name that no argument has."""
    own = inspect.signature(call).parameters.values()
    known = [*SamplingArguments.__annotations__, *(p.name for p in own if p.kind is p.KEYWORD_ONLY)]
    for name in given:
        if name not in Sampling.__struct_fields__:
            near = get_close_matches(name, known, n=1)
            meant = f": did you mean {near[0]}?" if near else ""
            raise TypeError(f"{call.__name__}() has no argument {name!r}{meant}")


def batch_of(prompt: Prompt | list[str] | list[list[int]]) -> list[Prompt] | None:
    """Return several prompts, texts or lists of tokens; None if it is one."""
    if isinstance(prompt, str) or not len(prompt) or not isinstance(prompt[0], Sized):
        return None
    return cast(list[Prompt], list(prompt))


def task_of(
    messages: Messages,
    *,
    tools: Sequence[ToolArgument],
    tool_choice: str,
    json_schema: Mapping[str, Any] | None,
    grammar: str | None,
    think: Think,
) -> ChatTask:
    """Return what the model is asked. A text is a message of the user's; tool_choice may name a tool."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    is_word = tool_choice in ("auto", "none", "required")
    task = ChatTask(
        messages,
        tools=[_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)],
        tool_choice=tool_choice if is_word else NamedTool(tool_choice),  # type: ignore[arg-type]
        response_format=JsonSchema(json_schema) if json_schema is not None else None,
        grammar=grammar,
    )
    return asked_to_think(task, think)


def _tool(tool: ToolArgument, place: str) -> Tool:
    """Return a tool, given as a function, or as in OpenAI's chat API. Raises UsageError."""
    if callable(tool):
        return _of_function(tool, place)
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError(
            f"{place} has no name", "give a function of yours, or OpenAI's form of a tool"
        )
    return Tool(
        function["name"],
        str(function.get("description") or ""),
        function.get("parameters") or {},
        bool(function.get("strict")),
    )


def _of_function(function: Callable[..., Any], place: str) -> Tool:
    from pydantic import PydanticUserError, TypeAdapter

    name = getattr(function, "__name__", type(function).__name__)
    try:
        schema = TypeAdapter(cast(Any, function)).json_schema()
    except PydanticUserError as error:
        raise UsageError(
            f"{place}: the arguments of {name}() have no schema",
            "annotate them with types that JSON has",
        ) from error
    return Tool(name, inspect.getdoc(function) or "", schema)
