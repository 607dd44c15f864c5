"""The figures of an answer, as OpenAI (usage) and llama-server (timings) tell them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dure.chat.task import Finished, PromptProgress, TokenLogprob
from dure.generate.request import Timings

__all__ = ["logprob_entries", "progress_of", "timings_of", "usage_of"]

LOWEST = -9999.0  # what OpenAI says for a probability of nothing; JSON has no infinity


def usage_of(finished: Sequence[Finished], n_prompts: int = 1) -> dict[str, Any]:
    """The tokens of all choices; the prompt of choices that share it counts once."""
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


def timings_of(timings: Timings) -> dict[str, Any]:
    """llama-server's `timings`, and of the decode steps how long ranks computed and summed."""
    prompt_n = timings.prompt_tokens - timings.cached_tokens
    return {
        "cache_n": timings.cached_tokens,
        "prompt_n": prompt_n,
        **_rates("prompt", timings.prompt_s, timings.prompt_per_s),
        "predicted_n": timings.tokens,
        **_rates("predicted", timings.generate_s, timings.generated_per_s),
        **(
            {"draft_n": timings.drafted, "draft_n_accepted": timings.accepted}
            if timings.drafted
            else {}
        ),
        "queue_ms": _ms(timings.queue_s),
        "compute_ms": _ms(timings.compute_s),
        "sync_ms": _ms(timings.sync_s),
    }


def _rates(name: str, seconds: float, per_s: float) -> dict[str, float]:
    return {
        f"{name}_ms": _ms(seconds),
        f"{name}_per_token_ms": _ms(1 / per_s) if per_s else 0.0,
        f"{name}_per_second": round(per_s, 3),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def progress_of(progress: PromptProgress) -> dict[str, Any]:
    """llama-server's `prompt_progress`."""
    return {
        "total": progress.total,
        "cache": progress.cached,
        "processed": progress.processed,
        "time_ms": round(progress.elapsed_s * 1000),
    }


def logprob_entries(logprobs: Sequence[TokenLogprob], *, ids: bool = False) -> list[dict[str, Any]]:
    """The entries of `logprobs.content`; with the tokens' ids, as llama-server has them."""
    return [
        {**_entry(one, ids), "top_logprobs": [_entry(top, ids) for top in one.top]}
        for one in logprobs
    ]


def _entry(one: TokenLogprob, ids: bool) -> dict[str, Any]:
    logprob = one.logprob if math.isfinite(one.logprob) else LOWEST
    entry = {"token": one.text, "bytes": list(one.data), "logprob": logprob}
    return {"id": one.token, **entry} if ids else entry
