"""Learns from real answers: how fast each upstream is, how long answers get, how many tokens bytes are.

Pure of clocks and files: measurements come in, expectations go out, and all of it is one value that can be
kept. Refuses to know HTTP.
"""

from __future__ import annotations

import msgspec

from dure.route.answer_lengths import AnswerLengths
from dure.route.crowding import Crowd
from dure.route.difficulty import Difficulty
from dure.route.facts import UpstreamSpeed
from dure.route.least_squares import Belief, TimesFit
from dure.route.line_fit import Decayed, LineFit
from dure.route.upstream import Upstream

__all__ = ["Learned", "Measured", "TokenCounts", "UpstreamLearned"]

_BYTES_SPREAD = 256.0
_TOKENS_PER_BYTE = 0.25
_MOST_GROUPS = 2000
_LATE_STEP, _MOST_LATE = 1.03, 2.0
_SHORT_S = 0.1
_BY_ANSWER, _BY_PROMPT = 0.4, 0.6  # how much others slow work down, until it is measured
_WEIGHT, _LEAST_WEIGHT = 0.1, 0.001  # of beliefs
_MOST_CROWD = 4.0  # each other answer or prompt at most: more is noise, or a queue
_LOST, _MOST_LOST = 0.5, 0.98  # part of an answer's speed, while prompts are read
_MOST_READING = 0.9


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer went. total_s: from sending the request; first_s: to the first piece of the answer.

    streamed: it came piece by piece. prompt_s, answer_s, queue_s: as the upstream says, None if it does
    not. beside_prompt: other answers and prompts under way, on average, while its prompt was read;
    beside_answer: other answers while it was written, and the part of that time in which prompts were
    read; waited: it may have stood in a queue. cached_tokens: of the prompt, as
    the upstream says; believed_cached: as the router thought.
    """

    total_s: float
    first_s: float
    streamed: bool = True
    prompt_tokens: int
    answer_tokens: int
    cached_tokens: int | None = None
    believed_cached: int = 0
    prompt_s: float | None = None
    answer_s: float | None = None
    queue_s: float | None = None
    beside_prompt: tuple[float, float] = (0.0, 0.0)
    beside_answer: tuple[float, float] = (0.0, 0.0)
    waited: bool = False

    @property
    def new_tokens(self) -> int:
        """Tokens of the prompt that had to be computed."""
        cached = self.believed_cached if self.cached_tokens is None else self.cached_tokens
        return max(0, self.prompt_tokens - cached)


class UpstreamLearned(msgspec.Struct):
    """What is known of one upstream.

    prompts: seconds by one, tokens, and these times other answers and prompts; answers: the same without
    the one. late: how many times as long as predicted half of the last answers took at least: others begin
    while they are written.
    """

    prompts: TimesFit = msgspec.field(default_factory=TimesFit)
    answers: TimesFit = msgspec.field(default_factory=TimesFit)
    late: float = 1.0
    requests: Decayed = msgspec.field(default_factory=Decayed)
    reuse: Decayed = msgspec.field(default_factory=Decayed)
    models: tuple[str, ...] = ()
    context: int | None = None
    parallel: int | None = None
    starts: Decayed = msgspec.field(default_factory=Decayed)

    @property
    def start_s(self) -> float | None:
        """What a start takes; None if none was seen."""
        return self.starts.ratio(0.0) or None

    def observe_start(self, seconds: float) -> None:
        """Take in how long a start took, until the first answer to a probe."""
        self.starts.observe(seconds, 1)

    def observe(self, measured: Measured, upstream: Upstream) -> None:
        """Take in how an answer went."""
        served_s = _served_s(measured)
        answer_s = measured.answer_s
        speed = self.speed(upstream)
        prompt_s = speed.overhead_s + measured.new_tokens / speed.prompt_per_s
        prompt_s *= speed.prompt_crowd.slowness(*measured.beside_prompt)
        if answer_s is None and measured.streamed:
            answer_s = measured.total_s - measured.first_s
        if served_s is not None and answer_s is None:  # what the prompt leaves is the answer's
            answer_s = max(served_s - prompt_s, served_s / 10)
        elif served_s is not None and answer_s is not None:
            counts = _prompt_counts(measured.new_tokens, measured.beside_prompt)
            real_s = _before_s(measured, served_s - answer_s)
            self.prompts.observe(counts, real_s, max(prompt_s, _SHORT_S))
        if measured.answer_tokens > 1 and answer_s:
            counts = _answer_counts(measured.answer_tokens, measured.beside_answer)
            factors = self._answer_factors(1 / upstream.answer_per_s)
            expected_s = sum(one * factor for one, factor in zip(counts, factors, strict=True))
            is_first = not self.answers.n
            self.answers.observe(counts, answer_s, answer_s if is_first else expected_s)
        if measured.cached_tokens is not None and measured.believed_cached:
            right = min(measured.cached_tokens, measured.believed_cached)
            self.reuse.observe(right, measured.believed_cached)
        if served_s is not None:
            self.requests.observe(served_s, 1)

    def observe_late(self, predicted_s: float, real_s: float) -> None:
        """Take in how long the work of a request took. predicted_s: for as many tokens as it had."""
        step = _LATE_STEP if real_s > predicted_s else 1 / _LATE_STEP
        self.late = min(max(1.0, self.late * step), _MOST_LATE)

    def speed(self, upstream: Upstream) -> UpstreamSpeed:
        """Return how fast it is with one answer, and how much others beside it slow it down."""
        overhead_s, token_s, prompt_crowd = self._prompt_speed(1 / upstream.prompt_per_s)
        answer_token_s, answer_crowd = self._answer_speed(1 / upstream.answer_per_s)
        return UpstreamSpeed(
            prompt_per_s=1 / max(token_s, 1e-6),
            answer_per_s=1 / max(answer_token_s, 1e-6),
            overhead_s=overhead_s,
            prompt_crowd=prompt_crowd,
            answer_crowd=answer_crowd,
            late=self.late,
            measured=bool(self.prompts.n and self.answers.n),
        )

    def _prompt_speed(self, believed_s: float) -> tuple[float, float, Crowd]:
        alone = [Belief((0, 1 / believed_s, 0, 0), 1, _LEAST_WEIGHT)]
        alone += [Belief((0, 0, 1 / believed_s, 0), 0, 1), Belief((0, 0, 0, 1 / believed_s), 0, 1)]
        token_s = max(self.prompts.factors(alone)[1], 1e-6)
        beliefs = [
            alone[0],
            Belief((0, -_BY_ANSWER / token_s, 1 / token_s, 0), 0, _WEIGHT),
            Belief((0, -_BY_PROMPT / token_s, 0, 1 / token_s), 0, _WEIGHT),
        ]
        overhead_s, token_s, by_answer_s, by_prompt_s = self.prompts.factors(beliefs)
        return overhead_s, token_s, _crowd(token_s, by_answer_s, by_prompt_s)

    def _answer_speed(self, believed_s: float) -> tuple[float, Crowd]:
        token_s, by_answer_s, lost_s = self._answer_factors(believed_s)
        lost = min(lost_s / max(token_s, 1e-6), _MOST_LOST)  # part of its speed
        return token_s, Crowd(
            answer=min(by_answer_s / max(token_s, 1e-6), _MOST_CROWD), any_prompt=lost / (1 - lost)
        )

    def _answer_factors(self, believed_s: float) -> list[float]:
        alone = [Belief((1 / believed_s, 0, 0), 1, _LEAST_WEIGHT)]
        alone += [Belief((0, 1 / believed_s, 0), 0, 1), Belief((0, 0, 1 / believed_s), 0, 1)]
        token_s = max(self.answers.factors(alone)[0], 1e-6)
        beliefs = [
            alone[0],
            Belief((-_BY_ANSWER / token_s, 1 / token_s, 0), 0, _WEIGHT),
            Belief((-_LOST / token_s, 0, 1 / token_s), 0, _WEIGHT),
        ]
        return self.answers.factors(beliefs)

    def cached(self, believed: int) -> int:
        """Return how much of a prefix is cached, going by how much was of the last ones."""
        return int(believed * self.reuse.ratio(1.0))


def _prompt_counts(tokens: int, beside: tuple[float, float]) -> tuple[float, ...]:
    return 1, tokens, tokens * beside[0], tokens * beside[1]


def _answer_counts(tokens: int, beside: tuple[float, float]) -> tuple[float, ...]:
    """Return what an answer's time is made of.

    The last is how much longer it takes for each part of its speed that reading costs it: if that were all
    of its speed, and prompts were read half of the time, it would take twice as long.
    """
    reading = min(beside[1], _MOST_READING)
    return tokens, tokens * beside[0], tokens * reading / (1 - reading)


def _crowd(alone_s: float, by_answer_s: float, by_prompt_s: float) -> Crowd:
    alone_s = max(alone_s, 1e-6)
    return Crowd(
        answer=min(by_answer_s / alone_s, _MOST_CROWD),
        prompt=min(by_prompt_s / alone_s, _MOST_CROWD),
    )


def _served_s(measured: Measured) -> float | None:
    """Return an answer's time without its wait; None if that is not known."""
    if measured.queue_s is not None:
        return measured.total_s - measured.queue_s
    if not measured.waited:
        return measured.total_s
    if measured.prompt_s is None or measured.answer_s is None:
        return None
    return measured.prompt_s + measured.answer_s


def _before_s(measured: Measured, not_answering_s: float) -> float:
    """Return what came before the answer's first token, its wait aside: a client may read slowly after."""
    if measured.streamed and not measured.waited:
        first_s = measured.first_s - (measured.queue_s or 0.0)
        not_answering_s = min(not_answering_s, first_s)
    return max(0.0, not_answering_s, measured.prompt_s or 0.0)


class TokenCounts(msgspec.Struct):
    """How many tokens a prompt's bytes are, for each model."""

    of: dict[str, LineFit] = msgspec.field(default_factory=dict)

    def observe(self, model: str, n_bytes: int, tokens: int) -> None:
        """Take in how many tokens a prompt was."""
        if n_bytes and tokens and (model in self.of or len(self.of) < _MOST_GROUPS):
            self.of.setdefault(model, LineFit()).observe(n_bytes, tokens)

    def expected(self, model: str, n_bytes: int) -> int:
        """Return how many tokens a prompt of so many bytes is, about."""
        if not n_bytes:
            return 0
        intercept, slope = self.of.get(model, LineFit()).line(_TOKENS_PER_BYTE, _BYTES_SPREAD)
        return max(1, round(intercept + slope * n_bytes))


class Learned(msgspec.Struct):
    """All that a router has learned, and what it has spent on which day."""

    upstreams: dict[str, UpstreamLearned] = msgspec.field(default_factory=dict)
    lengths: AnswerLengths = msgspec.field(default_factory=AnswerLengths)
    tokens: TokenCounts = msgspec.field(default_factory=TokenCounts)
    difficulty: Difficulty = msgspec.field(default_factory=Difficulty)
    day: str = ""
    spent_usd: dict[str, float] = msgspec.field(default_factory=dict)

    def upstream(self, name: str) -> UpstreamLearned:
        """Return what is known of an upstream."""
        return self.upstreams.setdefault(name, UpstreamLearned())

    def spent(self, name: str, day: str) -> float:
        """Return what an upstream's answers have cost on a day, dollars."""
        return self.spent_usd.get(name, 0.0) if day == self.day else 0.0

    def spend(self, name: str, usd: float, day: str) -> None:
        """Add what an answer cost."""
        if day != self.day:
            self.day, self.spent_usd = day, {}
        self.spent_usd[name] = self.spent_usd.get(name, 0.0) + usd
