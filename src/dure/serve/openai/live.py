"""The figures of an answer that is still being written, for `timings_per_token`."""

from __future__ import annotations

import time
from typing import Any

from dure.chat.task import ChatEvent, PromptProgress
from dure.generate.request import Timings
from dure.serve.openai.usage import timings_of

__all__ = ["LiveTimings"]


class LiveTimings:
    """Counts what passes; an event of text is a token, which is nearly always so."""

    def __init__(self) -> None:
        self._progress = PromptProgress(0, 0, 0, 0.0)
        self._first_s = 0.0
        self._n = 0

    def see(self, event: ChatEvent) -> None:
        """Take in an event."""
        if isinstance(event, PromptProgress):
            self._progress = event
        else:
            self._first_s = self._first_s or time.perf_counter()
            self._n += 1

    def timings(self) -> dict[str, Any]:
        """The timings so far."""
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
