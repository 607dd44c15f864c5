"""Counts the tokens of an answer as OpenAI does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dure.chat.task import Finished

__all__ = ["usage_of"]


def usage_of(finished: Sequence[Finished], n_prompts: int = 1) -> dict[str, Any]:
    """Return the usage of all choices; the prompt of choices that share it counts once."""
    each = max(1, len(finished) // n_prompts)
    prompts = finished[::each]
    prompt = sum(f.timings.prompt_tokens for f in prompts)
    completion = sum(f.timings.tokens for f in finished)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(f.timings.cached_tokens for f in prompts)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(f.reasoning_tokens for f in finished)
        },
    }
