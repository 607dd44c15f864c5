"""The load: many clients that send requests at once, and what they measure.

Knows how to make prompts of an exact length, how rounds of requests run, and what is measured.
Refuses to know which server answers.

Both servers get the same prompts, as token ids: nothing then depends on chat templates.
With `Api.CHAT` the same words are sent as messages, to measure templates and parsers too.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from measure import BenchError
from serve_client import Address, Answer, Body, stream

FIRST_WORD, LAST_WORD = 300, 1_999  # ordinary tokens of every vocabulary, the demo model's too
"""Token ids that prompts are drawn from: ordinary words in every vocabulary of 100,000 and more."""

WORDS = (
    "apple",
    "bread",
    "river",
    "stone",
    "house",
    "light",
    "water",
    "garden",
    "winter",
    "letter",
)


class Api(Enum):
    """The API that requests use."""

    COMPLETIONS = "completions"
    CHAT = "chat"

    @property
    def path(self) -> str:
        """Return the endpoint."""
        return "/v1/completions" if self is Api.COMPLETIONS else "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Load:
    """The requests of each client: `requests`, one after the other."""

    prompt_tokens: int
    max_tokens: int
    requests: int
    api: Api = Api.COMPLETIONS
    temperature: float = 0.0

    def body(self, seed: int, prefix: Sequence[int] = ()) -> Body:
        """Return a request; other seeds give other prompts of the same length."""
        random_ = random.Random(seed)
        common: dict[str, Any] = {
            "model": "bench", "stream": True, "stream_options": {"include_usage": True},
            "max_tokens": self.max_tokens, "temperature": self.temperature, "seed": 1,
            "ignore_eos": True,
        }  # fmt: skip
        if self.api is Api.CHAT:
            words = [str(seed), *random_.choices(WORDS, k=self.prompt_tokens)]
            return common | {"messages": [{"role": "user", "content": " ".join(words)}]}
        count = self.prompt_tokens - len(prefix)
        return common | {"prompt": [*prefix, *words_of(random_, count)]}


def words_of(random_: random.Random, count: int) -> list[int]:
    """Return `count` token ids drawn with `random_`."""
    return [random_.randint(FIRST_WORD, LAST_WORD) for _ in range(count)]


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that `percent` of all values do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


@dataclass(frozen=True, slots=True)
class Burst:
    """What `clients` clients measured that started together: tokens/s of all, seconds of each."""

    tokens_per_s: float
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    client_cpu: float  # share of one core that the clients took

    @classmethod
    def of(cls, answers: Sequence[Answer], elapsed_s: float, cpu_s: float) -> Burst:
        """Return the figures of answers that took `elapsed_s` together."""
        firsts = [answer.first for answer in answers]
        gaps = [gap for answer in answers for gap in answer.gaps]
        if not gaps:
            raise BenchError("no answer has two pieces of text: ask for more --max-tokens")
        return cls(
            sum(answer.tokens for answer in answers) / elapsed_s,
            percentile(firsts, 50), percentile(firsts, 99),
            percentile(gaps, 50), percentile(gaps, 99),
            cpu_s / elapsed_s,
        )  # fmt: skip


def burst(address: Address, load: Load, clients: int, seed: int) -> Burst:
    """Start `clients` clients at once, each with `load.requests` requests."""

    async def client(number: int) -> list[Answer]:
        bodies = [load.body(seed + number * load.requests + i) for i in range(load.requests)]
        return [await stream(address, load.api.path, body) for body in bodies]

    async def all_clients() -> list[Answer]:
        found = await asyncio.gather(*map(client, range(clients)))
        return [answer for answers in found for answer in answers]

    started, cpu = time.perf_counter(), time.process_time()
    answers = asyncio.run(all_clients())
    elapsed, used = time.perf_counter() - started, time.process_time() - cpu
    for answer in answers:
        _check(answer, load)
    return Burst.of(answers, elapsed, used)


def _check(answer: Answer, load: Load) -> None:
    if answer.tokens != load.max_tokens:
        raise BenchError(
            f"an answer of {answer.tokens} tokens, {load.max_tokens} were asked for: "
            "the server does not honour ignore_eos, or its context is too small"
        )
    if load.api is Api.COMPLETIONS and answer.prompt_tokens != load.prompt_tokens:
        raise BenchError(
            f"a prompt of {load.prompt_tokens} tokens was counted as {answer.prompt_tokens}"
        )


@dataclass(frozen=True, slots=True)
class PrefixStart:
    """Seconds to the first text of a long prompt: with none of it cached, and with all but its end."""

    cold: float
    cached: float


def prefix_start(address: Address, prefix_tokens: int, seed: int, repeats: int = 3) -> PrefixStart:
    """Send a new prefix, then the same one with another end; return medians."""
    end = 24
    load = Load(prefix_tokens + end, max_tokens=8, requests=1)
    colds: list[float] = []
    cacheds: list[float] = []
    for repeat in range(repeats):
        random_ = random.Random(f"{seed}/{repeat}")
        prefix = words_of(random_, prefix_tokens)
        for times, offset in ((colds, 0), (cacheds, 1)):
            body = load.body(seed * 1000 + repeat * 2 + offset, prefix)
            answer = asyncio.run(stream(address, load.api.path, body))
            times.append(answer.first)
    return PrefixStart(statistics.median(colds), statistics.median(cacheds))
