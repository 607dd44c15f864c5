"""Makes a chat task and options of an Ollama request; refuses by name what cannot be honoured.

Refuses to know HTTP and how the answer is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dure.chat.task import ChatTask, GenerationOptions, JsonObject, JsonSchema, Tool
from dure.engine.adapters import AdapterSet
from dure.errors import UsageError
from dure.generate.request import NOBODY, Owner, Sampling
from dure.http.unused_fields import let_through
from dure.serve.ollama.conversation import messages_of, refuse_images
from dure.serve.ollama.options import limit_of, sampling_of, stops_of
from dure.serve.ollama.requests import AnswerRequest, GenerateRequest, InputTool, OllamaChatRequest

__all__ = [
    "check_raw",
    "note_keep_alive",
    "options_of",
    "schema_of",
    "task_of_chat",
    "task_of_prompt",
]


def task_of_chat(request: OllamaChatRequest) -> ChatTask:
    """Return what the model is asked. Raises UsageError naming what cannot be honoured."""
    messages = messages_of(request.messages or ())
    return ChatTask(
        messages=messages,
        tools=_tools(request.tools or ()),
        response_format=_response_format(request),
        enable_thinking=_thinks(request),
        reasoning_effort=request.think if isinstance(request.think, str) else None,
        continue_last=messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1],
    )


def task_of_prompt(request: GenerateRequest) -> ChatTask:
    """Return the prompt as a conversation of one turn. Raises UsageError as `task_of_chat`."""
    refuse_images(request.images, "images")
    messages = [{"role": "system", "content": request.system}] if request.system else []
    return ChatTask(
        messages=[*messages, {"role": "user", "content": request.prompt or ""}],
        response_format=_response_format(request),
        enable_thinking=_thinks(request),
        reasoning_effort=request.think if isinstance(request.think, str) else None,
    )


def schema_of(request: AnswerRequest) -> dict[str, Any] | None:
    """Return the JSON schema that a raw prompt's continuation must follow."""
    if isinstance(request.format, dict):
        return request.format
    return {"type": "object"} if request.format == "json" else None


def check_raw(request: GenerateRequest) -> None:
    """Raise UsageError if a raw prompt comes with what only a chat template can do."""
    refuse_images(request.images, "images")
    for name in ("system", "think"):
        if getattr(request, name):
            raise UsageError(f"{name} cannot be honoured for a raw prompt", "leave one of them out")


def options_of(
    request: AnswerRequest,
    defaults: Sampling,
    n_ctx: int,
    owner: Owner = NOBODY,
    adapters: AdapterSet | None = None,
) -> GenerationOptions:
    """Return how the answer is generated. Raises UsageError naming what cannot be honoured."""
    note_keep_alive(request.keep_alive)
    if request.options and request.options.num_ctx:
        let_through("options.num_ctx", f"the server's context has {n_ctx} tokens")
    if request.top_logprobs and not request.logprobs:
        raise UsageError("top_logprobs needs logprobs", "say true")
    return GenerationOptions(
        sampling=sampling_of(request.options, defaults),
        max_tokens=limit_of(request.options),
        stop=stops_of(request.options),
        n_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        owner=owner,
        adapters=adapters,
    )


def note_keep_alive(keep_alive: Any) -> None:
    """Let every time through: the model stays loaded as long as the server runs, also for 0."""
    if keep_alive is not None and _IS_ZERO.fullmatch(str(keep_alive)):
        let_through("keep_alive", "the model stays loaded as long as the server runs")


_IS_ZERO = re.compile(r"[+-]?[0.]*0[0.]*(ns|us|µs|ms|s|m|h)?")


def _response_format(request: AnswerRequest) -> JsonObject | JsonSchema | None:
    if isinstance(request.format, dict):
        return JsonSchema(request.format, strict=False)
    return JsonObject() if request.format == "json" else None


def _thinks(request: AnswerRequest) -> bool | None:
    return request.think if request.think is None else bool(request.think)


def _tools(tools: Sequence[InputTool]) -> tuple[Tool, ...]:
    functions = [tool.function for tool in tools]  # of whatever type: a function is all it has
    return tuple(
        Tool(f.name, f.description or "", f.parameters or {}, bool(f.strict)) for f in functions
    )
