"""The places of an upstream: which answers hold one, how far they are, and when each ends. Pure.

Answers and prompts slow each other down, as `crowding` says. Refuses to know clocks: times are seconds of
any one clock.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from dure.route.crowding import Beside, Crowd

__all__ = ["Ahead", "Busy", "Places"]

_LATE = 0.1  # of its time is what an answer is thought to need still, if it is late
_MOST_BESIDE = 64
_MOST_OTHERS = 256  # answers of other clients that are looked at one by one


class Ahead(NamedTuple):
    """What another request finds. turn_s: until it has a place; beside: what goes on then."""

    turn_s: float
    beside: Beside


class Busy(NamedTuple):
    """What an upstream has done until a moment: answers, and prompts, at once times seconds.

    reading_s: seconds in which it read any prompt.
    """

    answers: float = 0.0
    prompts: float = 0.0
    reading_s: float = 0.0


@dataclass
class _UnderWay:
    """An answer. Seconds are those that it needs alone: all of it, and what is left of its two parts."""

    all_s: float
    prompt_s: float
    text_s: float

    def pass_by(self, prompt_s: float, text_s: float) -> None:
        """Let time pass: as much as a prompt, or a text, gets done in it."""
        if prompt_s < self.prompt_s:
            self.prompt_s -= prompt_s
            return
        text_s *= 1 - self.prompt_s / prompt_s if prompt_s else 1
        self.prompt_s, self.text_s = 0.0, max(0.0, self.text_s - text_s)


class Places:
    """Answers that are under way. parallel: places. others: answers of other clients.

    prompt_crowd, answer_crowd: how much prompts, and texts, are slowed down by others.
    """

    def __init__(self) -> None:
        self.parallel, self.others = 1, 0
        self.prompt_crowd = self.answer_crowd = Crowd()
        self._under_way: dict[Hashable, _UnderWay] = {}
        self._now_s, self._busy = 0.0, Busy()

    def __len__(self) -> int:
        return len(self._under_way)

    def take(self, name: Hashable, now_s: float, prompt_s: float, text_s: float) -> None:
        """Note an answer. prompt_s, text_s: what it needs alone until its text begins, and for that."""
        self._advance(now_s)
        self._under_way[name] = _UnderWay(prompt_s + text_s, prompt_s, text_s)

    def began(self, name: Hashable, now_s: float) -> None:
        """Note that an answer's text has begun."""
        self._advance(now_s)
        if (one := self._under_way.get(name)) is not None and one.prompt_s:
            one.all_s, one.prompt_s = one.text_s, 0.0

    def leave(self, name: Hashable, now_s: float) -> None:
        """Note that an answer has ended."""
        self._advance(now_s)
        self._under_way.pop(name, None)

    def busy(self, now_s: float) -> Busy:
        """Return what it has done until now, since any one moment."""
        self._advance(now_s)
        return self._busy

    def ahead(self, now_s: float, other_s: float) -> Ahead:
        """Return what another request finds. other_s: what an answer of another client needs alone.

        Many others take places in rounds of as many as there are places, all alike.
        """
        self._advance(now_s)
        works = [self._left(one) for one in self._under_way.values()]
        rounds = max(0, self.others - _MOST_OTHERS) // self.parallel
        works += [(0.0, other_s)] * (self.others - rounds * self.parallel)
        turn_s, beside = _Race(works, self).run()
        round_s = other_s * self.answer_crowd.slowness(self.parallel - 1, 0)
        return Ahead(turn_s + rounds * round_s, beside)

    def _left(self, one: _UnderWay) -> tuple[float, float]:
        is_late = one.prompt_s + one.text_s < _LATE * one.all_s
        return (0.0, _LATE * one.all_s) if is_late else (one.prompt_s, one.text_s)

    def _advance(self, now_s: float) -> None:
        """Let the answers go on until now."""
        seconds = max(0.0, now_s - self._now_s)
        self._now_s = max(now_s, self._now_s)
        active = list(islice(self._under_way.values(), self.parallel))
        n_prompts = sum(one.prompt_s > 0 for one in active)
        n_answers = min(len(active) + self.others, self.parallel) - n_prompts
        answers, prompts, reading_s = self._busy
        self._busy = Busy(
            answers + n_answers * seconds,
            prompts + n_prompts * seconds,
            reading_s + min(1, n_prompts) * seconds,
        )
        prompt_s = seconds / self.prompt_crowd.slowness(n_answers, max(0, n_prompts - 1))
        text_s = seconds / self.answer_crowd.slowness(max(0, n_answers - 1), n_prompts)
        for one in active:
            one.pass_by(prompt_s, text_s)


class _Race:
    """Answers on their way to their ends, with a request that comes last. Call `run` once.

    Each kind of work has a clock that goes as quickly as such work gets done, so that an end on it stays
    where it is whatever happens.
    """

    def __init__(self, works: list[tuple[float, float]], places: Places) -> None:
        self._waiting = iter(works)
        self._places = places
        self._prompts: list[tuple[float, float]] = []  # when it is read, and the text that follows
        self._texts: list[float] = []
        self._prompt_clock_s = self._text_clock_s = self._now_s = 0.0

    def run(self) -> Ahead:
        parallel = self._places.parallel
        for work in islice(self._waiting, parallel):
            self._enter(*work)
        while len(self._prompts) + len(self._texts) >= parallel:
            if self._next(beside=0) == "end":
                for work in islice(self._waiting, 1):
                    self._enter(*work)
        turn_s = self._now_s
        happened: dict[str, list[float]] = {"read": [], "end": []}
        while (self._prompts or self._texts) and len(happened["end"]) < _MOST_BESIDE:
            happened[self._next(beside=1)].append(self._now_s - turn_s)
        return Ahead(turn_s, Beside(read_s=tuple(happened["read"]), ends_s=tuple(happened["end"])))

    def _enter(self, prompt_s: float, text_s: float) -> None:
        if prompt_s > 0:
            heapq.heappush(self._prompts, (self._prompt_clock_s + prompt_s, text_s))
        else:
            heapq.heappush(self._texts, self._text_clock_s + text_s)

    def _next(self, beside: int) -> str:
        """Go to the next event, and say which. beside: answers that are not in the race."""
        n_prompts, n_answers = len(self._prompts), len(self._texts) + beside
        of_prompt = self._places.prompt_crowd.slowness(n_answers, max(0, n_prompts - 1))
        of_text = self._places.answer_crowd.slowness(max(0, n_answers - 1), n_prompts)
        read_s = end_s = math.inf
        if self._prompts:
            read_s = (self._prompts[0][0] - self._prompt_clock_s) * of_prompt
        if self._texts:
            end_s = (self._texts[0] - self._text_clock_s) * of_text
        is_read, seconds = read_s <= end_s, max(0.0, min(read_s, end_s))
        self._now_s += seconds
        self._prompt_clock_s += seconds / of_prompt
        self._text_clock_s += seconds / of_text
        if is_read:
            self._enter(0.0, heapq.heappop(self._prompts)[1])
            return "read"
        heapq.heappop(self._texts)
        return "end"
