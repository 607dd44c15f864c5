"""Repeats a request in its response, with the defaults of what it did not say.

Refuses to know the answer.
"""

from __future__ import annotations

from typing import Any

from dure.generate.request import Sampling
from dure.serve.responses.requests import ResponsesRequest

__all__ = ["echo_of"]


def echo_of(request: ResponsesRequest, model: str, sampling: Sampling) -> dict[str, Any]:
    """Return the fields for `ResponseAnswer`. model: the name that is shown."""
    return {
        "model": model,
        "instructions": request.instructions,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_logprobs": request.top_logprobs or 0,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": None,
        "tool_choice": _plain(request.tool_choice) or "auto",
        "tools": [_plain(tool) for tool in request.tools or ()],
        "text": _text(request),
        "reasoning": _reasoning(request),
        "truncation": "disabled",
        "store": False,
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
        "user": request.user,
        "safety_identifier": request.safety_identifier,
        "prompt_cache_key": request.prompt_cache_key,
    }


def _plain(value: Any) -> Any:
    return value.model_dump(by_alias=True) if hasattr(value, "model_dump") else value


def _text(request: ResponsesRequest) -> dict[str, Any]:
    wanted = request.text.format if request.text else None
    return {"format": _plain(wanted) or {"type": "text"}}


def _reasoning(request: ResponsesRequest) -> dict[str, Any]:
    wanted = request.reasoning
    return {
        "effort": wanted.effort if wanted else None,
        "summary": None,
    }
