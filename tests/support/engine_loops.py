"""Runs the engine's loop until its requests end; and prompts for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from dure.engine.limits import Limits
from dure.generate.loop import EngineLoop
from dure.generate.request import (
    Done,
    Embedded,
    Event,
    Failed,
    Grammar,
    PrefillProgress,
    PromptLogits,
    PromptLogprobs,
    Request,
    Sampling,
    Token,
)
from dure.generate.speculative.budget import DraftBudget, DraftOption
from dure.model.vocabulary import Vocabulary
from tests.support.conversations import conversations

DEMO = Path(__file__).parents[2] / "models" / "dure-demo.gguf"
GREEDY = Sampling(temperature=0)
LIMITS = Limits(n_ctx=1024, threads=1, n_sequences=4)
# A parrot at this temperature seldom says its text, and exactly the same in every batch.
WILD = Sampling(temperature=60, top_k=40, top_p=1, min_p=0, seed=7)
QUESTIONS = [
    "Who is the baker?",
    "Tell me a story about a goat.",
    "What does Joon do?",
    "Tell me a story about a spoon.",
    "Where was the goat?",
    "Tell me about the barley.",
]
PENALTIES = msgspec.structs.replace(
    WILD, repeat_penalty=1.5, presence_penalty=0.5, repeat_last_n=20, logit_bias={3: 2.0}
)
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"sampling": GREEDY},
    "wild": {"sampling": WILD},
    "penalties": {"sampling": PENALTIES},
    "dry": {"sampling": msgspec.structs.replace(WILD, dry_multiplier=0.8)},
    "mirostat": {"sampling": msgspec.structs.replace(WILD, mirostat=2)},
    "grammar": {"sampling": WILD, "grammar": Grammar(r"root ::= [^\n]+")},
    "logprobs": {"sampling": GREEDY, "n_logprobs": 3},
    "prompt_logprobs": {"sampling": GREEDY, "prompt_logprobs": 2},
}


@dataclass
class Told:
    """The events of one request."""

    tokens: list[Token] = field(default_factory=list)
    progress: list[PrefillProgress] = field(default_factory=list)
    read: list[PromptLogprobs | PromptLogits] = field(default_factory=list)
    end: Done | Failed | Embedded | None = None

    @property
    def ids(self) -> list[int]:
        return [event.token for event in self.tokens]

    @property
    def done(self) -> Done:
        assert isinstance(self.end, Done), self.end
        return self.end

    @property
    def embedding(self) -> npt.NDArray[np.float32]:
        assert isinstance(self.end, Embedded), self.end
        return np.frombuffer(self.end.values, np.float32)


def run(
    loop: EngineLoop,
    *requests: Request,
    after_step: Callable[[int, dict[str, Told]], None] = lambda *_: None,
) -> dict[str, Told]:
    """Answer requests and return their events; each must have one end, as its last event."""
    told = {request.id: Told() for request in requests}
    for request in requests:
        loop.submit(request)
    for n in range(100_000):
        if not loop.busy:
            break
        for event in loop.step():
            tell(told[event.id], event)
        after_step(n, told)
    assert all(t.end is not None for t in told.values())
    return told


def tell(told: Told, event: Event) -> None:
    assert told.end is None, "nothing comes after the end"
    match event:
        case Token():
            told.tokens.append(event)
        case PromptLogprobs() | PromptLogits():
            told.read.append(event)
        case PrefillProgress():
            told.progress.append(event)
        case _:
            told.end = event


def question(vocabulary: Vocabulary, text: str) -> list[int]:
    return conversations(vocabulary).turn([{"role": "user", "content": text}]).prompt


class Eager(DraftBudget):
    """A budget that drafts as much as allowed, whatever the cost."""

    def plan(
        self,
        n_answers: int,  # noqa: ARG002  # as its base
        options: Sequence[DraftOption],
        n_max: int,
    ) -> list[int]:
        counts = []
        for option in options:
            counts.append(min(option.n_max, self.n_max, n_max))
            n_max -= counts[-1]
        return counts
