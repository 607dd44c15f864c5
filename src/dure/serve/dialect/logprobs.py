"""Writes the logprobs of tokens as OpenAI's API does, and dialects that follow it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dure.chat.task import TokenLogprob

__all__ = ["LOWEST", "finite", "logprob_entries", "probability_entries"]

LOWEST = -9999.0  # what OpenAI says for a probability of nothing; JSON has no infinity


def finite(logprob: float) -> float:
    """Return a logprob as JSON can write it."""
    return logprob if math.isfinite(logprob) else LOWEST


def logprob_entries(logprobs: Sequence[TokenLogprob], *, ids: bool = False) -> list[dict[str, Any]]:
    """Return the entries of `logprobs.content`. ids: with the tokens' ids, as llama-server has them."""
    return [
        {**_entry(one, ids), "top_logprobs": [_entry(top, ids) for top in one.top]}
        for one in logprobs
    ]


def probability_entries(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return entries in llama-server's form of probabilities after sampling, with ids."""
    return [
        {**_probability(one), "top_probs": [_probability(top) for top in one.top]}
        for one in logprobs
    ]


def _probability(one: TokenLogprob) -> dict[str, Any]:
    return {
        "id": one.token,
        "token": one.text,
        "bytes": list(one.data),
        "prob": math.exp(one.logprob),
    }


def _entry(one: TokenLogprob, ids: bool) -> dict[str, Any]:
    entry = {"token": one.text, "bytes": list(one.data), "logprob": finite(one.logprob)}
    return {"id": one.token, **entry} if ids else entry
