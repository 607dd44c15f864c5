"""Watches an answer pass: when it began, how many tokens it has, what the upstream says of its time.

Looks at an answer's beginning and end only, and changes nothing. Knows what OpenAI's, Anthropic's, Ollama's
and llama-server's APIs call the figures. Refuses to know connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from dure.route.learning import Measured
from dure.route.places import Busy

__all__ = ["AnswerWatch"]

_NO_TIME = 0.02  # of an answer's time
_KEPT_BYTES = 16 * 1024  # of the beginning, and of the end


def _number(*names: str) -> re.Pattern[bytes]:
    """Return the pattern of a number by its name. A quote within a text has a backslash before it."""
    return re.compile(rb'(?<!\\)"(?:' + "|".join(names).encode() + rb')":\s*([0-9.eE+-]+)')


_PROMPT = _number("prompt_tokens", "input_tokens", "prompt_eval_count")
_ANSWER = _number("completion_tokens", "output_tokens", "eval_count", "predicted_n")
_CACHED = _number("cached_tokens", "cache_read_input_tokens", "cache_n")
_BESIDE = re.compile(  # what input_tokens leaves out
    rb'(?<!\\)"(cache_read_input_tokens|cache_creation_input_tokens)":\s*([0-9]+)'
)
_PROMPT_N, _PROMPT_MS = _number("prompt_n"), _number("prompt_ms")
_ANSWER_MS, _QUEUE_MS = _number("predicted_ms"), _number("queue_ms")
_PROMPT_NS, _ANSWER_NS = _number("prompt_eval_duration"), _number("eval_duration")


class AnswerWatch:
    """Sees the pieces of one answer.

    first_s, last_s: when the first and the last came, since `start_s`. has_begun: more came than comments,
    which only say that somebody is there still.
    """

    def __init__(self, start_s: float, busy: Callable[[float], Busy] = lambda _: Busy()) -> None:
        """busy: its upstream's work at once times seconds, until a moment, this answer's own too."""
        self._start_s, self._busy_at = start_s, busy
        self._busy = [busy(start_s)] * 3  # at the start, at the first piece, at the last
        self.has_begun = self._in_comment = False
        self._head, self._tail = bytearray(), bytearray()
        self._n_events = 0
        self.first_s = self.last_s = 0.0
        self.n_bytes = 0

    def see(self, piece: bytes, now_s: float) -> None:
        """See a piece of the answer."""
        if not self.has_begun and self._begins(piece):
            self.has_begun, self.first_s = True, now_s - self._start_s
            self._busy[1] = self._busy_at(now_s)
        self.last_s = now_s - self._start_s
        self.n_bytes += len(piece)
        self._n_events += piece.count(b"data:")
        if len(self._head) < _KEPT_BYTES:
            self._head += piece[: _KEPT_BYTES - len(self._head)]
        self._tail += piece
        if len(self._tail) > 2 * _KEPT_BYTES:
            del self._tail[:-_KEPT_BYTES]

    def _begins(self, piece: bytes) -> bool:
        """Return whether a piece has more than comments and empty lines. It may end within a comment."""
        for line in piece.splitlines(keepends=True):
            self._in_comment |= line.startswith(b":")
            if not self._in_comment and line.strip(b"\r\n"):
                return True
            self._in_comment &= not line.endswith((b"\r", b"\n"))
        return False

    def ended(self, now_s: float) -> None:
        """Note that the last piece has come."""
        self._busy[2] = self._busy_at(now_s)

    def measured(self, *, waited: bool, believed_cached: int) -> Measured:
        """Return how the answer went, from what the upstream says, or else from its pieces."""
        prompt, cached = self._prompt()
        answer = self._last(_ANSWER)
        beside_prompt, beside_answer = self._beside()
        return Measured(
            total_s=self.last_s,
            first_s=self.first_s,
            streamed=self._n_events > 0,
            prompt_tokens=int(prompt or 0),
            answer_tokens=int(self._n_events if answer is None else answer),
            cached_tokens=None if cached is None else int(cached),
            believed_cached=believed_cached,
            prompt_s=self._seconds(_PROMPT_MS, _PROMPT_NS),
            answer_s=self._seconds(_ANSWER_MS, _ANSWER_NS),
            queue_s=self._seconds(_QUEUE_MS),
            beside_prompt=beside_prompt,
            beside_answer=beside_answer,
            waited=waited,
        )

    def _beside(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return what was done beside its prompt: other answers, and prompts, on average; and beside its
        text: other answers, and the part of the time in which prompts were read.
        """
        start, first, end = self._busy
        if self.last_s - self.first_s >= _NO_TIME * self.last_s:
            answers, prompts, _ = _mean(start, first, self.first_s)
            others, _, reading = _mean(first, end, self.last_s - self.first_s)
            return (answers, max(0.0, prompts - 1)), (max(0.0, others - 1), reading)
        # it came in one piece, so that what was done beside which of its parts is not known
        answers, prompts, _ = _mean(start, end, self.last_s)
        others = max(0.0, answers + prompts - 1)
        prompts = min(others, prompts)
        return (others - prompts, prompts), (others - prompts, min(1.0, prompts))

    def _prompt(self) -> tuple[float | None, float | None]:
        """Return the tokens of the whole prompt, and how many of these were cached."""
        prompt, cached = self._last(_PROMPT), self._last(_CACHED)
        beside = {name: float(value) for name, value in _BESIDE.findall(self._seen())}
        whole = None if prompt is None else prompt + sum(beside.values())
        computed = self._last(_PROMPT_N)
        if whole is None and computed is not None:
            whole = computed + (cached or 0)
        if cached is None and computed is not None and whole is not None:
            cached = max(0.0, whole - computed)
        return whole, cached

    def _seconds(
        self, in_ms: re.Pattern[bytes], in_ns: re.Pattern[bytes] | None = None
    ) -> float | None:
        if (ms := self._last(in_ms)) is not None:
            return ms / 1e3
        ns = self._last(in_ns) if in_ns else None
        return None if ns is None else ns / 1e9

    def _last(self, pattern: re.Pattern[bytes]) -> float | None:
        """Return the last number of a name, of the answer's end if it is there."""
        for part in (self._tail, self._head):
            if found := pattern.findall(part):
                return _float(found[-1])
        return None

    def _seen(self) -> bytes:
        is_whole = self.n_bytes <= len(self._tail)
        return bytes(self._tail) if is_whole else bytes(self._head + b"\n" + self._tail)


def _mean(before: Busy, after: Busy, seconds: float) -> tuple[float, float, float]:
    if seconds <= 0:
        return 0.0, 0.0, 0.0
    answers, prompts, reading_s = (
        (later - earlier) / seconds for earlier, later in zip(before, after, strict=True)
    )
    return answers, prompts, min(1.0, reading_s)


def _float(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
