"""What the answers of a step may go on with: looked up in their own text, or asked of a draft model.

Knows which of the two to believe, for each answer. Refuses to know what becomes of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from dure.deploy.options import RunOptions
from dure.deploy.reporter import Reporter
from dure.engine.executor import ExecutorInfo
from dure.generate.answers import Answer
from dure.generate.scheduler.scheduler import Running, Work
from dure.generate.speculative.budget import BY_MODEL, Chance, Drafting, drafting_for
from dure.generate.speculative.draft_model import DraftModel, Wanted, open_draft_model
from dure.generate.speculative.prompt_lookup import Lookup
from dure.model.gguf import GgufFile
from dure.model.vocabulary import Vocabulary

__all__ = ["Draft", "Guessing", "open_guessing"]


class Draft(StrEnum):
    """Where tokens are guessed from, unless a draft model is named."""

    LOOKUP = "lookup"
    OFF = "off"


@dataclass(frozen=True)
class _Guess:
    """tokens: as many as are known without asking; source: see `Acceptance`."""

    chance: Chance
    source: int
    tokens: tuple[int, ...] = ()


class Guessing:
    """Guesses for one engine. drafting: how many; model: who is asked where nothing can be looked up."""

    def __init__(self, drafting: Drafting, model: DraftModel | None = None) -> None:
        self.drafting, self._model = drafting, model

    def begin(self, answer: Answer, tokens: Sequence[int]) -> None:
        """An answer begins, after a prompt."""
        answer.lookup = Lookup(tokens)

    def ended(self, answer: str) -> None:
        """An answer has ended."""
        if self._model is not None:
            self._model.ended(answer)

    def close(self) -> None:
        """Free the draft model's memory."""
        if self._model is not None:
            self._model.close()

    def with_drafts(
        self, work: Sequence[Work], answers: Mapping[str, Answer], info: ExecutorInfo
    ) -> Sequence[Work]:
        """The same step with guessed tokens, where all that it does is to go on with answers."""
        if any(w.running.in_prefill for w in work):
            return work
        guesses: dict[int, _Guess] = {}
        for i, w in enumerate(work):
            answer = answers[w.running.request.id]
            if (guess := self._guess(answer, _room(w.running, info))) is not None:
                guesses[i] = guess
        most = min(info.n_outputs, info.n_batch) - len(work)
        counts = self.drafting.plan(len(work), [g.chance for g in guesses.values()], most)
        planned = dict(zip(guesses, counts, strict=True))
        asked = self._asked(
            work, {i: n for i, n in planned.items() if guesses[i].source == BY_MODEL}
        )
        drafted = list(work)
        for i, n in planned.items():
            drafts = asked.get(i, guesses[i].tokens[:n])
            answers[work[i].running.request.id].source = guesses[i].source
            drafted[i] = replace(work[i], drafts=drafts)
        return drafted

    def _guess(self, answer: Answer, room: int) -> _Guess | None:
        """The better of what is looked up and what the model would say."""
        if answer.lookup is None or room < 1:
            return None
        most = min(room, self.drafting.most)
        found, accepted = answer.lookup.guess(most), answer.acceptance
        by_model = accepted.of(BY_MODEL) if self._model is not None else 0.0
        if found is not None and accepted.of(found.length) >= by_model:
            chance = Chance(len(found.tokens), accepted.of(found.length))
            return _Guess(chance, found.length, found.tokens)
        if self._model is None:
            return None
        return _Guess(Chance(most, by_model, self._model.round_s), BY_MODEL)

    def _asked(self, work: Sequence[Work], counts: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
        """What the model says, by place in the step."""
        places = [i for i, n in counts.items() if n]
        if self._model is None or not places:
            return dict.fromkeys(counts, ())
        wanted = [
            Wanted(work[i].running.request.id, work[i].running.tokens, counts[i]) for i in places
        ]
        return dict.fromkeys(counts, ()) | dict(zip(places, self._model.guess(wanted), strict=True))


def open_guessing(
    draft: str,
    model: GgufFile,
    vocabulary: Vocabulary,
    options: RunOptions,
    n_ctx: int,
    reporter: Reporter,
) -> Guessing | None:
    """What guesses for a model, as the user wants it; None where nothing does.

    draft: of `Draft`, or a draft model's file. n_ctx: of each answer. Raises as `open_draft_model` does.
    """
    if draft == Draft.OFF:
        return None
    drafting = drafting_for(model)
    if draft == Draft.LOOKUP:
        return Guessing(drafting)
    return Guessing(drafting, open_draft_model(Path(draft), vocabulary, options, n_ctx, reporter))


def _room(running: Running, info: ExecutorInfo) -> int:
    """How many guesses an answer may go on with, beside the token that comes in any case."""
    room = info.n_ctx - len(running.tokens) - 1
    if running.request.max_tokens is not None:
        room = min(room, running.request.max_tokens - running.n_answered - 1)
    return room
