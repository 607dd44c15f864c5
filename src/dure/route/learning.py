"""Learns from real answers: how fast each upstream is, how long answers get, how many tokens bytes are.

Pure of clocks and files: measurements come in, expectations go out, and all of it is one value that can be
kept. Refuses to know HTTP.
"""

from __future__ import annotations

import statistics

import msgspec

from dure.route.facts import UpstreamSpeed
from dure.route.line_fit import Decayed, LineFit
from dure.route.upstream import Upstream

__all__ = ["AnswerLengths", "Learned", "Measured", "TokenCounts", "UpstreamLearned"]

_PROMPT_SPREAD = 64.0  # tokens
_BYTES_SPREAD = 256.0
_TOKENS_PER_BYTE = 0.25
_LOADS = (1, 2, 4, 8, 16, 32)
_MOST_LENGTHS = 32
_MOST_GROUPS = 2000
_FIRST_GUESS = 256  # tokens of an answer of which nothing is known


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer went. total_s: from sending the request; first_s: to the first piece of the answer.

    streamed: it came piece by piece. prompt_s, answer_s, queue_s: as the upstream says, None if it does
    not. load: answers at once, with this one; waited: it may have stood in a queue. cached_tokens: of the
    prompt, as the upstream says; believed_cached: as the router thought.
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
    load: int = 1
    waited: bool = False

    @property
    def new_tokens(self) -> int:
        """Tokens of the prompt that had to be computed."""
        cached = self.believed_cached if self.cached_tokens is None else self.cached_tokens
        return max(0, self.prompt_tokens - cached)


class UpstreamLearned(msgspec.Struct):
    """What is known of one upstream. rates: answer tokens by seconds, for each load."""

    prompt: LineFit = msgspec.field(default_factory=LineFit)
    rates: dict[int, Decayed] = msgspec.field(default_factory=dict)
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
        if answer_s is None and measured.streamed:
            answer_s = measured.total_s - measured.first_s
        if served_s is not None and answer_s is None:  # what the prompt leaves is the answer's
            speed = self.speed(upstream, measured.load)
            prompt_s = speed.overhead_s + measured.new_tokens / speed.prompt_per_s
            answer_s = max(served_s - prompt_s, served_s / 10)
        elif served_s is not None and answer_s is not None:
            self.prompt.observe(measured.new_tokens, _before_s(measured, served_s - answer_s))
        if measured.answer_tokens > 1 and answer_s:
            rate = self.rates.setdefault(_load(measured.load), Decayed())
            rate.observe(measured.answer_tokens, answer_s)
        if measured.cached_tokens is not None and measured.believed_cached:
            right = min(measured.cached_tokens, measured.believed_cached)
            self.reuse.observe(right, measured.believed_cached)
        if served_s is not None:
            self.requests.observe(served_s, 1)

    def speed(self, upstream: Upstream, load: int) -> UpstreamSpeed:
        """Return how fast it would be with so many answers at once."""
        overhead_s, per_token_s = self.prompt.line(1 / upstream.prompt_per_s, _PROMPT_SPREAD)
        wanted = _load(load)
        known = min(self.rates, key=lambda one: abs(one - wanted), default=None)
        rate = self.rates[known].ratio(upstream.answer_per_s) if known else upstream.answer_per_s
        return UpstreamSpeed(
            prompt_per_s=1 / max(per_token_s, 1e-6),
            answer_per_s=rate,
            overhead_s=overhead_s,
            measured=bool(self.prompt.n and self.rates),
        )

    def cached(self, believed: int) -> int:
        """Return how much of a prefix is cached, going by how much was of the last ones."""
        return int(believed * self.reuse.ratio(1.0))


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


def _load(n: int) -> int:
    return next((load for load in _LOADS if n <= load), _LOADS[-1])


class AnswerLengths(msgspec.Struct):
    """How long answers got: of each model and key, apart for each order of magnitude of max_tokens."""

    of: dict[str, list[int]] = msgspec.field(default_factory=dict)

    def observe(self, model: str, key: str, most: int | None, tokens: int) -> None:
        """Take in an answer's length. most: its max_tokens."""
        for group in _groups(model, key, most):
            lengths = self.of.pop(group, [])
            self.of[group] = [*lengths[-_MOST_LENGTHS + 1 :], tokens]  # the last that is forgotten
        while len(self.of) > _MOST_GROUPS:
            del self.of[next(iter(self.of))]

    def expected(self, model: str, key: str, most: int | None) -> int:
        """Return the median of the nearest group that has any, max_tokens at most."""
        known = (self.of[group] for group in _groups(model, key, most) if group in self.of)
        lengths = next(known, [_FIRST_GUESS])
        expected = round(statistics.median(lengths))
        return expected if most is None else min(most, expected)


def _groups(model: str, key: str, most: int | None) -> tuple[str, ...]:
    """Return the names of groups of like answers, the narrowest first."""
    size = "-" if most is None else str(most.bit_length())
    return f"{model} {key} {size}", f"{model} * {size}", f"* * {size}"


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
