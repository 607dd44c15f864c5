"""Writes the timings of an answer as llama-server does, also while it is generated."""

from __future__ import annotations

import time
from typing import Any

from dure.chat.task import ChatEvent, PromptProgress
from dure.generate.request import Timings

__all__ = ["LiveTimings", "progress_of", "timings_of"]


def timings_of(timings: Timings) -> dict[str, Any]:
    """Return llama-server's `timings`, with the compute and all-reduce time of the decode steps."""
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
    """Return llama-server's `prompt_progress`."""
    return {
        "total": progress.total,
        "cache": progress.cached,
        "processed": progress.processed,
        "time_ms": round(progress.elapsed_s * 1000),
    }


class LiveTimings:
    """Times an answer by its events; counts an event of text as a token, which it nearly always is."""

    def __init__(self) -> None:
        self._progress = PromptProgress(0, 0, 0, 0.0)
        self._first_s = 0.0
        self._n = 0

    def observe(self, event: ChatEvent) -> None:
        """Take in an event."""
        if isinstance(event, PromptProgress):
            self._progress = event
        else:
            self._first_s = self._first_s or time.perf_counter()
            self._n += 1

    def timings(self) -> dict[str, Any]:
        """Return the timings so far."""
        progress = self._progress
        generate_s = time.perf_counter() - self._first_s if self._n > 1 else 0.0
        return timings_of(
            Timings(
                prompt_tokens=progress.total,
                cached_tokens=progress.cached,
                prompt_s=progress.elapsed_s,
                tokens=self._n,
                generate_s=generate_s,
            )
        )
