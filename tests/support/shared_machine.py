"""A machine that computes answers and prompts together, step by step, on a clock that only it moves.

A step has the next token of each answer; if prompts wait, it reads as much of these as takes as long, and
50 ms at least. Stands for the hardware below an upstream. Knows what answers take, and nothing of routing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from dure.route.answer_watch import AnswerWatch
from dure.route.facts import RequestFacts
from dure.route.learning import Measured
from dure.route.places import Places

CHUNK_S = 0.05


@dataclass(eq=False)
class Work:
    """A request, when it came, and what was predicted then."""

    request: RequestFacts
    came_s: float
    predicted_s: float
    prompt: float = 0.0
    answer: int = 0
    watch: AnswerWatch = field(init=False)

    def __post_init__(self) -> None:
        self.prompt, self.answer = self.request.prompt_tokens, self.request.answer_tokens

    @property
    def name(self) -> int:
        """What it is called among answers under way."""
        return id(self)


@dataclass(frozen=True)
class Happened:
    """A prompt was read, or an answer ended."""

    now_s: float
    what: Literal["read", "end"]
    work: Work

    def tell(self, places: Places) -> None:
        """Tell those who watch it."""
        self.work.watch.see(b"data: {}\n\n", self.now_s)
        if self.what == "read":
            places.began(self.work.name, self.now_s)
        else:
            self.work.watch.ended(self.now_s)
            places.leave(self.work.name, self.now_s)

    def measured(self) -> Measured | None:
        """Return how an answer that has ended went, by its pieces alone."""
        if self.what == "read":
            return None
        request = self.work.request
        self.work.watch.see(
            b'{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}'
            % (request.prompt_tokens, request.answer_tokens),
            self.now_s,
        )
        return self.work.watch.measured(waited=False, believed_cached=0)


class SharedMachine:
    """Its speeds are tokens a second; each other answer adds `crowd` of a token's time to a step."""

    def __init__(
        self, prompt_per_s: float, answer_per_s: float, parallel: int, crowd: float
    ) -> None:
        self.prompt_per_s, self.answer_per_s = prompt_per_s, answer_per_s
        self.parallel, self.crowd = parallel, crowd
        self.now_s = 0.0
        self._works: list[Work] = []

    def add(self, work: Work, places: Places) -> None:
        """Take a request, which the places know already."""
        self.now_s = max(self.now_s, work.came_s)
        work.watch = AnswerWatch(work.came_s, places.busy)
        self._works.append(work)

    def run(self, until_s: float) -> Iterator[Happened]:
        """Compute until then, and yield what happens."""
        while self._works and self.now_s < until_s:
            before = self._works[: self.parallel]
            reading = [one for one in before if one.prompt > 0]
            self.now_s += self._step_s(before, reading)
            for one in reading:
                if one.prompt <= 0:
                    yield Happened(self.now_s, "read", one)
            for one in before:
                if one.answer <= 0:
                    self._works.remove(one)
                    yield Happened(self.now_s, "end", one)

    def _step_s(self, works: list[Work], reading: list[Work]) -> float:
        answering = [one for one in works if one not in reading]
        crowd = 1 + self.crowd * (len(answering) - 1)
        step_s = crowd / self.answer_per_s if answering else 0.0
        for one in answering:
            one.answer -= 1
        left = max(step_s, CHUNK_S) * self.prompt_per_s
        for one in sorted(reading, key=lambda one: one.prompt):
            done = min(left, one.prompt)
            one.prompt, left = one.prompt - done, left - done
            step_s += done / self.prompt_per_s
        return step_s
