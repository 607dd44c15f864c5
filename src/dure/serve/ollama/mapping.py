"""Makes a chat task and options of an Ollama request; refuses by name what cannot be honoured.

Refuses to know HTTP and how the answer is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from dure.chat.task import ChatTask, GenerationOptions, JsonObject, JsonSchema, Tool
from dure.errors import UsageError
from dure.generate.request import Sampling
from dure.serve.ollama.conversation import messages_of, refuse_images
from dure.serve.ollama.options import limit_of, sampling_of, stops_of
from dure.serve.ollama.requests import AnswerRequest, GenerateRequest, InputTool, OllamaChatRequest

__all__ = [
    "check_keep_alive",
    "check_raw",
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
    _refuse_prompt(request)
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
    _refuse_prompt(request)
    for name in ("system", "think"):
        if getattr(request, name):
            raise UsageError(f"{name} cannot be honoured for a raw prompt", "leave one of them out")


def options_of(
    request: AnswerRequest, defaults: Sampling, n_ctx: int, owner: str = ""
) -> GenerationOptions:
    """Return how the answer is generated. Raises UsageError naming what cannot be honoured."""
    check_keep_alive(request.keep_alive)
    for name in ("truncate", "shift"):
        if getattr(request, name):
            raise UsageError(
                f"{name} true is not supported: what does not fit the context is refused, "
                "never dropped; leave it out"
            )
    if request.top_logprobs and not request.logprobs:
        raise UsageError("top_logprobs needs logprobs", "say true")
    return GenerationOptions(
        sampling=sampling_of(request.options, defaults, n_ctx),
        max_tokens=limit_of(request.options),
        stop=stops_of(request.options),
        n_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        owner=owner,
    )


_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def check_keep_alive(keep_alive: str | float | None) -> None:
    """Accept any time: the model stays loaded as long as the server runs.

    Raises UsageError for 0, which asks to unload it, and for what is no duration.
    """
    if keep_alive is None or keep_alive == "":
        return
    if _seconds(keep_alive) == 0:
        raise UsageError(
            "keep_alive 0 asks to unload the model, which stays loaded as long as this server runs",
            "leave it out, or use `dure stop`",
        )


def _seconds(keep_alive: str | float) -> float:
    if isinstance(keep_alive, int | float):
        return float(keep_alive)
    text = keep_alive.strip()
    try:
        seconds = float(text)
    except ValueError:
        return _duration(text)
    if math.isfinite(seconds):
        return seconds
    raise UsageError(f"keep_alive {keep_alive!r} is no duration", "write 300, or '5m'")


def _duration(text: str) -> float:
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.lstrip("+-"):
        raise UsageError(f"keep_alive {text!r} is no duration", "write 300, or '5m'")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def _refuse_prompt(request: GenerateRequest) -> None:
    refuse_images(request.images, "images")
    if request.suffix:
        raise UsageError("suffix is not supported: this server fills no gaps; leave it out")
    if request.template:
        raise UsageError("template is not supported", "use raw with a prompt that is written out")
    if request.context:
        raise UsageError("context is not supported", "use /api/chat with the messages so far")


def _response_format(request: AnswerRequest) -> JsonObject | JsonSchema | None:
    if isinstance(request.format, dict):
        return JsonSchema(request.format)
    return JsonObject() if request.format == "json" else None


def _thinks(request: AnswerRequest) -> bool | None:
    return request.think if request.think is None else bool(request.think)


def _tools(tools: Sequence[InputTool]) -> tuple[Tool, ...]:
    functions = [tool.function for tool in tools]
    return tuple(
        Tool(f.name, f.description or "", f.parameters or {}, bool(f.strict)) for f in functions
    )
